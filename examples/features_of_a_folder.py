"""Features of every image in a folder, and for some of them the images that are most like them.

    python examples/features_of_a_folder.py runs/a photos --out features.parquet --queries 3

Needs a run of `moco pretrain`; labels and packing are not needed. The table can be read by pandas, polars or DuckDB.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow.parquet

import moco


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run directory of `moco pretrain`")
    parser.add_argument("folder", type=Path, help="images, nested as they like")
    parser.add_argument("--out", type=Path, default=Path("features.parquet"), help="a new file (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=3, help="images whose neighbours are shown (default: 3)")
    args = parser.parse_args()

    embedding = moco.embed(args.run, args.folder, args.out, normalize=True)
    table = pyarrow.parquet.read_table(embedding.path)
    print(f"{table.num_rows:,} images, {table.schema.field('feature').type.list_size} features each: {embedding.path}")

    step = max(1, table.num_rows // args.queries)
    queries = [args.folder / path for path in table["path"].to_pylist()[::step][: args.queries]]
    # Each image is in the index itself: the first match is the query, so that one more is asked for.
    for found in moco.search(args.run, embedding.path, queries, k=4):
        alike = ", ".join(f"{match.path} ({match.score:.2f})" for match in found.matches[1:])
        print(f"{found.query}: {alike}")


if __name__ == "__main__":
    main()
