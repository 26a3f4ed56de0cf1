"""Peak memory of the evaluators at ImageNet's width and classes, on synthetic features of a share of its images.

    python benchmarks/memory.py       # some minutes on one core; prints the table of benchmarks/memory.md

Each subject runs in a process of its own, at two numbers of images; what is measured is anonymous memory (what can't be
given back to a file), sampled twenty times a second, less what the process had before. The features themselves are
made before and counted apart: above 4 GiB the program keeps them in half precision, in host memory or in a file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from moco.config import RuntimeConfig
from moco.console import Silent, listen
from moco.data.store import FORMAT, Pixels, digest_of
from moco.environment import describe
from moco.evaluators.classifier import Classifier
from moco.evaluators.features import Features, LabelledFeatures
from moco.evaluators.knn import knn_top1
from moco.evaluators.linear_cached import linear_cached
from moco.evaluators.linear_options import CachedOptions
from moco.evaluators.logistic import fit_logistic
from moco.evaluators.proof import proven
from moco.evaluators.scores import score
from moco.runtime import Runtime

TRAIN, VAL, WIDTH, CLASSES = 1_281_167, 50_000, 2_048, 1_000
MIB = 2**20


def anonymous_bytes() -> int:
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return 1024 * int(rows["RssAnon"].split()[0])


def peak_of(work: Callable[[], object]) -> tuple[float, float]:
    """(MiB of anonymous memory that `work` adds at most, seconds)."""
    before, highest, over = anonymous_bytes(), [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            highest[0] = max(highest[0], anonymous_bytes())

    watcher, began = threading.Thread(target=watch), time.perf_counter()
    watcher.start()
    work()
    over.set()
    watcher.join()
    return (max(highest[0], anonymous_bytes()) - before) / MIB, time.perf_counter() - began


def labelled(count: int, views: int = 1, width: int = WIDTH, classes: int = CLASSES) -> LabelledFeatures:
    """`count` images around a centre of their class each."""
    draw = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, width, generator=draw)
    values = torch.empty(views, count, width)
    for view in values:
        view.normal_(generator=draw).add_(centres[labels])
    return LabelledFeatures(Features.of(values), labels, [str(n) for n in range(classes)])


def knn(images: int) -> Callable[[], object]:
    train, val = labelled(images), labelled(max(images * VAL // TRAIN, 1))
    return lambda: knn_top1(train, val, 20, 0.1)


def baseline(images: int) -> Callable[[], object]:
    width = 3 * 32 * 32
    bank, val = labelled(images, width=width), labelled(max(images * VAL // TRAIN, 1), width=width)
    return lambda: knn_top1(bank, val, 20, 0.1, bank.features.values[0].mean(0))


def logistic(images: int) -> Callable[[], object]:
    train = labelled(images)
    return lambda: fit_logistic(train, max_iterations=22)  # so many that the solver's memory is full


def cached(images: int) -> Callable[[], object]:
    train, options = labelled(images, views=2), CachedOptions(passes=1, epochs=1)
    runtime = Runtime(RuntimeConfig("cpu", "float32", threads=1))

    def work() -> None:
        with proven(nn.BatchNorm1d(3).requires_grad_(False)) as proof:
            linear_cached(train, options, runtime, proof)

    return work


def evaluate(images: int) -> Callable[[], object]:
    classes = 10 * CLASSES
    split = labelled(images, classes=classes)
    classifier = Classifier(torch.randn(classes, WIDTH), torch.zeros(classes), split.classes, {})
    return lambda: score(classifier, split.features.blocks(rows=256), split.labels)


def sparse_store(images: int) -> Callable[[], object]:
    """A packed store of 30 GB that takes no room on the disk, opened."""
    folder = Path(tempfile.mkdtemp(prefix="moco-memory-")) / "images"
    folder.mkdir()
    side, count = 1000, 10_000
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

    def work() -> None:
        assert Pixels.open(folder).pixels[-1] == 0
        (folder / "pixels.npy").unlink()

    return work


SUBJECTS: dict[str, tuple[Callable[[int], Callable[[], object]], tuple[int, ...]]] = {
    "baseline, raw pixels (kNN, 3,072 values)": (baseline, (25_000, 50_000)),
    "kNN monitor": (knn, (TRAIN // 64, TRAIN // 32)),
    "logistic monitor": (logistic, (TRAIN // 128, TRAIN // 64)),
    "linear cached, 48 heads": (cached, (TRAIN // 512, TRAIN // 256)),
    "evaluate, 10,000 classes": (evaluate, (TRAIN // 64, TRAIN // 32)),
    "opening a 30 GB store": (sparse_store, (10_000,)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", choices=SUBJECTS)
    parser.add_argument("--images", type=int)
    args = parser.parse_args()
    if args.subject:
        listen(Silent())
        torch.set_num_threads(1)
        made = SUBJECTS[args.subject][0](args.images)
        print(json.dumps(peak_of(made)))
        return
    about = describe()
    print(f"{about['processor']}, {' '.join(about['instruction_sets'])}, one thread; torch {torch.__version__}\n")
    print("| what | images | peak beside the features, MiB | seconds |\n|---|---|---|---|")
    for name, (_, sizes) in SUBJECTS.items():
        for images in sizes:
            command = [sys.executable, __file__, "--subject", name, "--images", str(images)]
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            peak, seconds = json.loads(told.splitlines()[-1])
            print(f"| {name} | {images:,} | {peak:,.0f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
