"""Listing, packing and opening a folder of very many files: seconds and peak memory, to see that they are linear.

    python benchmarks/listing.py [--files 250000 500000 1000000] [--packed 10000 20000 40000] [--folder DIR]

The files are one tiny JPEG under many names (hard links, 60,000 to a file), a thousand to a folder. Each case runs in a
process of its own; peaks are `ru_maxrss` less that of a process that only imports.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

LINKS, A_FOLDER = 60_000, 1000


def made(folder: Path, count: int) -> Path:
    """`count` names below `folder`."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(content, "JPEG")
    for number in range(count):
        place = folder / f"{number // A_FOLDER:05d}"
        if number % A_FOLDER == 0:
            place.mkdir(parents=True)
        if number % LINKS == 0:
            first = place / f"{number}.jpg"
            first.write_bytes(content.getvalue())
        else:
            os.link(first, place / f"{number}.jpg")
    return folder


def case(what: str, folder: str, cache: str) -> None:
    """Do it in this process, and print seconds and the peak in bytes."""
    from moco.config import StoreConfig
    from moco.console import Silent, listen
    from moco.data.dataset import open_dataset
    from moco.data.folder import scan
    from moco.data.layout import arrange

    listen(Silent())
    began = time.perf_counter()
    if what == "list":
        arrange(scan(folder), "none", 0.1, folder)
    elif what != "nothing":
        open_dataset(folder, StoreConfig(cache=cache, labels="none", format="raw"), 32)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([time.perf_counter() - began, peak]))


def measured(what: str, folder: Path, cache: Path) -> tuple[float, int]:
    words = [sys.executable, __file__, "--case", what, str(folder), str(cache)]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    seconds, peak = json.loads(told)
    return seconds, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[250_000, 500_000, 1_000_000])
    parser.add_argument("--packed", type=int, nargs="+", default=[10_000, 20_000, 40_000])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        case(*args.case)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        place = Path(scratch)
        _, nothing = measured("nothing", place, place)
        print("| what | files | seconds | a second | MiB |\n|---|---|---|---|---|")
        for what, counts in (("list", args.files), ("pack", args.packed)):
            for count in counts:
                folder = made(place / f"{what}-{count}", count)
                for step in ("list",) if what == "list" else ("pack", "open"):
                    seconds, peak = measured(step, folder, place / f"cache-{count}")
                    rate, mib = count / seconds, (peak - nothing) / 2**20
                    print(f"| {step} | {count:,} | {seconds:.1f} | {rate:,.0f} | {mib:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
