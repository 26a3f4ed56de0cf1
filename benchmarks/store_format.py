"""A store of JPEGs against one of pixels: bytes, pixel differences, reading, and the training step, in one run.

    .venv/bin/python benchmarks/store_format.py --data DIR [--recipe imagenette-cpu] [--rounds 7] [--steps 3]

Both stores are packed into a temporary folder (or `--cache DIR`) and training alternates between them, so that whatever
else the machine does hits both: read the ratios.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import moco
from moco.config import Config
from moco.data.store import Store
from moco.environment import describe
from moco.runs.pretrain import Prepared, prepare
from moco.timing.measure import Subject, interleaved

LOOKED_AT = 500  # images whose pixels are compared


def differences(raw: Store, jpeg: Store) -> dict[str, float]:
    """Mean absolute difference in grey levels, and PSNR in dB, over images spread over the split."""
    absolute, psnr, exact = [], [], 0
    numbers = np.unique(np.linspace(0, len(raw) - 1, LOOKED_AT).astype(int)).tolist()
    for i in numbers:
        difference = raw.image(i).astype(float) - jpeg.image(i)
        absolute.append(np.abs(difference).mean())
        exact += not difference.any()
        if difference.any():
            psnr.append(10 * np.log10(255**2 / (difference**2).mean()))
    return {
        "images": len(numbers),
        "mean_absolute": float(np.mean(absolute)),
        "psnr_db": float(np.mean(psnr)) if psnr else float("inf"),
        "exact": exact,
    }


def stepping(prepared: Prepared, steps: int) -> Callable[[], None]:
    """`steps` steps in the loop's order: the next batch is read while this one is trained on."""
    training = prepared.training
    training.model.train()
    batches = itertools.cycle(training.sampler.order(0))
    coming = [next(batches)]
    training.views.ahead(coming[0])

    def run() -> None:
        for _ in range(steps):
            images, coming[0] = coming[0], next(batches)
            training.views.ahead(coming[0])
            training.step(images)
        prepared.runtime.synchronize()

    return run


def measure(config: Config, rounds: int, steps: int) -> dict[str, Any]:
    prepared = {
        format: prepare(replace(config, store=replace(config.store, format=format))) for format in ("raw", "jpeg")
    }
    stores = {format: made.data.train for format, made in prepared.items()}
    batch = prepared["raw"].config.batch_size
    reading = np.arange(batch)

    def decode() -> None:
        for i in reading.tolist():
            stores["jpeg"].image(i)

    subjects = [Subject(format, stepping(made, steps), steps * batch) for format, made in prepared.items()]
    subjects.append(Subject("decode_one_thread", decode, batch))
    rates = [{name: figure.median for name, figure in interleaved(subjects, 1).items()} for _ in range(rounds)]
    ratios = [rate["jpeg"] / rate["raw"] for rate in rates]
    return {
        "machine": describe(),
        "setting": {"short_side": config.short_side, "batch_size": batch, "rounds": rounds, "steps": steps},
        "bytes": {format: store.stored_bytes for format, store in stores.items()},
        "bytes_ratio": stores["jpeg"].stored_bytes / stores["raw"].stored_bytes,
        "pixels": differences(stores["raw"], stores["jpeg"]),
        "samples_per_s": {s.name: round(statistics.median(rate[s.name] for rate in rates), 1) for s in subjects},
        "step_ratio": round(statistics.median(ratios), 3),
        "step_ratio_by_round": [round(ratio, 3) for ratio in ratios],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipe", default="imagenette-cpu")
    parser.add_argument("--short_side", type=int)
    parser.add_argument("--batch_size", type=int, help="default: the recipe's")
    parser.add_argument("--cache")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        store = {"cache": asked.cache or scratch, "short_side": asked.short_side}
        config = moco.recipe(asked.recipe, data=asked.data, store=store)
        if asked.batch_size is not None:
            config = replace(config, train=replace(config.train, batch_size=asked.batch_size))
        print(json.dumps(measure(config, asked.rounds, asked.steps), indent=1))


if __name__ == "__main__":
    main()
