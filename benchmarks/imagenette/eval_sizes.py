"""How large a view a trained backbone is best looked at with: validation kNN at several sizes, the same weights.

    python benchmarks/imagenette/eval_sizes.py runs/cpu [--sizes 64 80 96 112 128] [--encoder query] [--data DIR]

Prints a line a size: its side, kNN (k and temperature of the run) on all validation images. What is found so for a run
is what `views.eval_zoom` may be in the next one: choose it on images that the report isn't about.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from moco.data.dataset import open_dataset
from moco.evaluators.knn import knn_top1
from moco.runs.trained import labelled, open_frozen


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 80, 96, 112, 128])
    parser.add_argument("--encoder", choices=("query", "key"), default="query")
    parser.add_argument("--data", help="default: the run's own")
    args = parser.parse_args()
    opened = open_frozen(args.run, "last", args.encoder)
    config, frozen = opened.run.config, opened.frozen
    data = open_dataset(args.data or config.data, config.store, config.short_side)
    assert data.val is not None, "kNN needs labels, and validation images"
    train, val = (labelled(store, frozen.runtime.device) for store in (data.train, data.val))
    for size in args.sizes:
        seen = replace(frozen, size=size)
        options = config.monitor
        top1 = knn_top1(seen.measured(train), seen.measured(val), options.knn_k, options.knn_temperature)
        print(f"{size} px: kNN {100 * top1:.2f} % of {len(val):,} validation images", flush=True)


if __name__ == "__main__":
    main()
