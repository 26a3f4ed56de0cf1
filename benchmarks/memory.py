"""Peak memory of the evaluators at ImageNet's width and classes, on made-up features of a share of its images.

    python benchmarks/memory.py       # some minutes on one core; prints the tables of benchmarks/memory.md

Each case runs in a process of its own. Its peak is `ru_maxrss`, less that of a process that only imports, less the
features that it is given: float16, as the program keeps ImageNet's. Two cases of a subject differ in one size; through
both a line is drawn to that size's full value, or to the limit that the program sets it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from moco.config import RuntimeConfig
from moco.console import Silent, listen
from moco.data.pixels import FORMAT, Pixels
from moco.data.store import digest_of
from moco.environment import describe
from moco.evaluators.classifier import Classifier
from moco.evaluators.features import Features, LabelledFeatures
from moco.evaluators.heads import Standard
from moco.evaluators.knn import knn_top1
from moco.evaluators.linear_cached import linear_cached
from moco.evaluators.linear_options import CachedOptions
from moco.evaluators.logistic import MOST_IMAGES, drawn, fit_logistic
from moco.evaluators.monitors import BASELINE_IMAGES
from moco.evaluators.proof import proven
from moco.evaluators.scores import score
from moco.runtime import Runtime

TRAIN, VAL, WIDTH, CLASSES, PIXELS = 1_281_167, 50_000, 2_048, 1_000, 3 * 32 * 32
MIB, GIB = 2**20, 2**30
BUDGET_GIB = 8.0
LBFGS_BYTES = 2 * 20 * 4 * WIDTH * CLASSES  # its memory when it is full, after 20 steps: the cases take one
Work = tuple[Callable[[], object], int]  # what to do, and the bytes of the features that it is given


def labelled(count: int, width: int = WIDTH, exact: bool = False) -> LabelledFeatures:
    """`count` made-up rows; a few thousand that repeat, for memory doesn't depend on the values."""
    block = torch.randn(min(count, 4096), width, generator=torch.Generator().manual_seed(0))
    values = torch.empty(1, count, width, dtype=torch.float32 if exact else torch.float16)
    for first in range(0, count, len(block)):
        part = values[0, first : first + len(block)]
        part.copy_(block[: len(part)])
    labels = torch.arange(count) % CLASSES
    return LabelledFeatures(Features(values, torch.device("cpu")), labels, [str(n) for n in range(CLASSES)])


def nbytes(*splits: LabelledFeatures) -> int:
    return sum(split.features.values.nbytes for split in splits)


def knn(bank_rows: int, queries: int) -> Work:
    bank, val = labelled(bank_rows), labelled(queries)
    return lambda: knn_top1(bank, val), nbytes(bank, val)


def baseline(bank_rows: int, queries: int) -> Work:
    """Raw pixels: the bank is exact, as 50,000 thumbnails are under the limit for that."""
    bank, val = labelled(bank_rows, PIXELS, exact=True), labelled(queries, PIXELS, exact=True)
    return lambda: knn_top1(bank, val, centre=bank.features.values[0].mean(0)), nbytes(bank, val)


def draw(images: int) -> Work:
    train = labelled(images)
    return lambda: drawn(train), nbytes(train)


def fit(images: int) -> Work:
    """On the images drawn: they are a copy that the regression makes, so they count."""
    train = labelled(images, exact=True)
    return lambda: fit_logistic(train, max_iterations=1), 0


def scale(rows: int) -> Work:
    train = labelled(rows)
    return lambda: Standard.of(train.features), nbytes(train)


def heads(images: int) -> Work:
    """Steps of all 48 heads: the batches are as large as at any size."""
    train, options = labelled(images), CachedOptions(passes=0, epochs=1)
    runtime = Runtime(RuntimeConfig("cpu", "float32", threads=1))

    def work() -> None:
        with proven(nn.BatchNorm1d(3).requires_grad_(False)) as proof:
            linear_cached(train, options, runtime, proof)

    return work, nbytes(train)


def evaluate(images: int) -> Work:
    split = labelled(images)
    classifier = Classifier(torch.randn(CLASSES, WIDTH), torch.zeros(CLASSES), split.classes, {})
    return lambda: score(classifier, split.features.blocks(rows=256), split.labels), nbytes(split)


def nothing() -> Work:
    return lambda: None, 0


def store() -> Work:
    """A packed store of 30 GB that takes no room on the disk, opened, and one image of it looked at."""
    side, count = 1000, 10_000
    size = 3 * side * side

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            _write_store(Path(folder), count, side)
            started = time.perf_counter()
            pixels = Pixels.open(Path(folder))
            seconds = time.perf_counter() - started
            assert len(pixels) == count and pixels.pixels[-size:].sum() == 0
            print(json.dumps({"gb": pixels.pixels.nbytes / 1e9, "seconds": seconds}))

    return work, 0


def _write_store(folder: Path, count: int, side: int) -> None:
    size = 3 * side * side
    with (folder / "pixels.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (size * count,)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + size * count)
    tables = {
        "offsets": np.arange(count, dtype=np.int64) * size,
        "sizes": np.full((count, 2), side, np.int32),
        "contents": np.zeros((count, 16), np.uint8),
    }
    for name, table in tables.items():
        np.save(folder / f"{name}.npy", table)
    manifest = {
        "format": FORMAT, "bytes": size * count, "tables": digest_of(*tables.values()), "skipped": [], "unread": [],
        "names": [str(n) for n in range(count)], "ranges": {}, "unended": [],
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        name: for the table.
        make: sizes to work.
        cases: sizes of each case; the last two differ in `axis` alone.
        axis: number of the size that the line is drawn over.
        full: its value with all of ImageNet.
        extra: bytes that a full run holds beside, computed.
    """

    name: str
    make: Callable[..., Work]
    cases: tuple[tuple[int, ...], ...]
    axis: int
    full: int
    extra: int = 0

    def at_full(self, peaks: list[float]) -> float:
        """GiB with all of ImageNet, of `peaks` in MiB; a line that falls is noise about a level."""
        (one, two), (less, more) = peaks[-2:], (case[self.axis] for case in self.cases[-2:])
        slope = max(0.0, (two - one) / (more - less))
        return (max(one, two + slope * (self.full - more)) * MIB + self.extra) / GIB


SUBJECTS = (
    # from the second block of the bank on, two are held; from 671 queries on, the most similarities
    Subject(
        "kNN monitor (rows of the bank, queries)",
        knn, ((2**16, 512), (3 * 2**16, 512), (2**17, 512), (2**17, 1536)), 1, VAL,
    ),
    Subject(
        "baseline on raw pixels (rows of the bank, queries)",
        baseline, ((BASELINE_IMAGES, 1024), (BASELINE_IMAGES, 2048)), 1, VAL,
    ),
    Subject("logistic monitor, the draw (images)", draw, ((TRAIN // 8,), (TRAIN // 4,)), 0, TRAIN),
    Subject(
        "logistic monitor, the fit (images drawn)",
        fit, ((TRAIN // 64,), (TRAIN // 32,)), 0, MOST_IMAGES, extra=LBFGS_BYTES,
    ),
    Subject("`linear cached`, scale of the views (views)", scale, ((TRAIN // 8,), (TRAIN // 4,)), 0, 4 * TRAIN),
    Subject("`linear cached`, 48 heads (images)", heads, ((1137,), (2275,)), 0, 2275),
    Subject("`evaluate` (images)", evaluate, ((TRAIN // 64,), (TRAIN // 32,)), 0, TRAIN + VAL),
)  # fmt: skip
MAKERS = {make.__name__: make for make in (nothing, store, *(subject.make for subject in SUBJECTS))}


def in_a_process(make: Callable[..., Work], *sizes: int) -> list[str]:
    """What the case prints: its last line is [peak, features] in bytes."""
    command = [sys.executable, __file__, "--case", make.__name__, *map(str, sizes)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


def case(name: str, *sizes: int) -> None:
    listen(Silent())
    Runtime(RuntimeConfig("cpu", threads=1))  # the allocator as the program has it
    torch.set_num_threads(1)
    work, features = MAKERS[name](*sizes)
    work()
    print(json.dumps([1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, features]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        case(args.case[0], *map(int, args.case[1:]))
        return
    started, about = time.perf_counter(), describe()
    print(f"{about['processor']}, {' '.join(about['instruction_sets'])}, one thread; torch {torch.__version__}")
    base, _ = json.loads(in_a_process(nothing)[-1])
    told = in_a_process(store)
    opened, peak = json.loads(told[0]), json.loads(told[-1])[0]
    print(f"imports alone: {base / MIB:,.0f} MiB")
    print(f"a store of {opened['gb']:.0f} GB: {opened['seconds']:.3f} s to open, {(peak - base) / MIB:,.0f} MiB more\n")
    print("| what | measured at | MiB beyond the features | all of ImageNet, by the line: GiB |\n|---|---|---|---|")
    for subject in SUBJECTS:
        peaks = []
        for sizes in subject.cases:
            peak, features = json.loads(in_a_process(subject.make, *sizes)[-1])
            peaks.append((peak - base - features) / MIB)
        at = "; ".join(" x ".join(f"{size:,}" for size in sizes) for sizes in subject.cases)
        full = subject.at_full(peaks)
        within = "" if full <= BUDGET_GIB else f" (over {BUDGET_GIB:.0f})"
        print(f"| {subject.name} | {at} | {'; '.join(f'{p:,.0f}' for p in peaks)} | {full:.1f}{within} |", flush=True)
    print(f"\n{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
