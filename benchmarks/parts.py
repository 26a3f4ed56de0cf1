"""The step with the batch in parts on threads, and in one piece on torch's own threads: interleaved, in one process.

    python benchmarks/parts.py [--setting small|large] [--parts 2 4] [--load N] [--arenas N] [--rounds 5] [--json FILE]

One subject a number of parts, beside `whole` (`bn_splits` 1: one batch, every operation shared by the threads, as all
steps were before there were parts). Every step is the full one, views from made-up pictures included: MoCo v2, queue of
4,096, one loss a pair. `small`: ResNet-18, 64 px, batch 128; `large`: ResNeXt-50 32x4d, 224 px, batch 32.

`--load N` keeps N processes busy meanwhile. `--arenas` is glibc's malloc: how many of its arenas the threads share
(the program sets 1: freed memory is then one thread's as well as another's). Compare runs of either with and without.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
from pathlib import Path

import numpy as np
import torch

from moco.config import OptimizerConfig, RuntimeConfig, ViewsConfig
from moco.data.sampler import Batch
from moco.environment import describe
from moco.model.moco import MoCo
from moco.runtime import Runtime
from moco.timing.load import busy_neighbours
from moco.timing.measure import Subject, interleaved
from moco.train.optimizer import build_optimizer
from moco.train.step import MoCoStep
from moco.views.make import TrainingViews
from moco.views.pipelines import Crops
from moco.views.ragged import Ragged

SETTINGS = {"small": ("resnet18", 64, 128, 6), "large": ("resnext50_32x4d", 224, 32, 2)}
_M_ARENA_MAX = -8  # malloc.h


def pictures(count: int, side: int) -> Ragged:
    """Noise of one size: the views cost what they cost with photographs."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    sizes = np.full(count, side, np.int32)
    return Ragged(torch.from_numpy(pixels.reshape(-1)), np.arange(count) * side * side * 3, sizes, sizes)


def subject(setting: str, parts: int, runtime: Runtime, source: Ragged) -> Subject:
    backbone, size, batch, steps = SETTINGS[setting]
    torch.manual_seed(0)
    model = MoCo(backbone, 128, 4096, 0.999, 0.2, mlp=True, bn_splits=parts)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(model, OptimizerConfig(lr=0.06))
    step = MoCoStep(model, optimizer, runtime, lambda loss: None, 0, False)
    views = TrainingViews(source, Crops.of(ViewsConfig(size=size)), 0, runtime.workers)
    numbers = itertools.count()

    def run() -> None:
        for number in itertools.islice(numbers, steps):
            images = (np.arange(batch) + number * batch) % len(source)
            these = Batch(images, number, number)
            step(views(these), these)

    return Subject("whole" if parts == 1 else f"{parts} parts", run, steps * batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, default="small")
    parser.add_argument("--parts", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--load", type=int, default=0)
    parser.add_argument("--arenas", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    runtime = Runtime(RuntimeConfig("cpu", threads=args.threads))
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, args.arenas)
    source = pictures(512, 2 * SETTINGS[args.setting][1])
    subjects = [subject(args.setting, parts, runtime, source) for parts in (1, *args.parts)]
    with busy_neighbours(args.load):
        found = interleaved(subjects, args.rounds)
    about = describe()
    sets = " ".join(about["instruction_sets"])
    print(f"{about['processor']}, {about['cores']} cores, {sets}; torch {torch.__version__}; {runtime.line()}")
    print(f"{args.setting}, {args.load} busy neighbours, {args.arenas} arenas")
    for name, f in found.items():
        ratio = f.median / found["whole"].median
        print(f"{name:>8}: {f.median:8.1f} samples/s  ({f.low:.1f} to {f.high:.1f}, n={f.rounds})  {ratio:.2f} x whole")
    if args.json:
        rates = {name: vars(figure) for name, figure in found.items()}
        setting = {"setting": args.setting, "load": args.load, "arenas": args.arenas, "threads": runtime.threads}
        args.json.write_text(json.dumps({**setting, "rates": rates, "about": about}, indent=1))


if __name__ == "__main__":
    main()
