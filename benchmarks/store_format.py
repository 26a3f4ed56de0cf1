"""A store of JPEGs against one of pixels: bytes, pixel differences, reading, and the training step, in one run.

    .venv/bin/python benchmarks/store_format.py --data DIR [--recipe imagenette-cpu] [--rounds 7] [--steps 3] [--s3]

The stores are packed into a temporary folder (or `--cache DIR`) and training alternates between them, so that whatever
else the machine does hits all: read the ratios. `--s3` adds the JPEGs as chunk files, here and on an S3 server that
runs on this machine, whose chunks have all been fetched before (the time for that is told too).
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import moco
from moco.config import Config
from moco.data.remote import RemoteChunks
from moco.data.store import Store
from moco.environment import describe
from moco.runs.preparing import Prepared, prepare
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
    training.ahead(coming[0])

    def run() -> None:
        for _ in range(steps):
            images, coming[0] = coming[0], next(batches)
            training.ahead(coming[0])
            training.step(images)
        prepared.runtime.synchronize()

    return run


def on_s3(config: Config, scratch: Path) -> tuple[dict[str, Prepared], float]:
    """The same images as chunk files here and on an S3 server; and the seconds to fetch all of them from there."""
    import obstore
    from moto.server import ThreadedMotoServer
    from obstore.store import from_url

    moco.pack(config, scratch / "packed")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    values = {"ENDPOINT_URL": f"http://{host}:{port}", "ALLOW_HTTP": "true", "REGION": "us-east-1"}
    os.environ |= {f"AWS_{n}": v for n, v in {**values, "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items()}
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/bench", method="PUT"))
    for path in (scratch / "packed").iterdir():
        obstore.put(from_url("s3://bench/store"), path.name, path.read_bytes())
    made = {"chunks": prepare(replace(config, data=str(scratch / "packed")))}
    made["s3"] = prepare(replace(config, data="s3://bench/store"))
    pixels = made["s3"].data.train.pixels
    assert isinstance(pixels, RemoteChunks)
    began = time.perf_counter()
    for begin in pixels.begins[:-1].tolist():
        pixels[begin : begin + 1]
    return made, time.perf_counter() - began


def measure(config: Config, rounds: int, steps: int, s3: bool, scratch: Path) -> dict[str, Any]:
    prepared = {
        format: prepare(replace(config, store=replace(config.store, format=format))) for format in ("raw", "jpeg")
    }
    fetched_s = None
    if s3:
        more, fetched_s = on_s3(config, scratch)
        prepared |= more
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
        **({} if fetched_s is None else told_of_s3(rates, fetched_s, stores["s3"].stored_bytes)),
        "step_ratio": round(statistics.median(ratios), 3),
        "step_ratio_by_round": [round(ratio, 3) for ratio in ratios],
    }


def told_of_s3(rates: list[dict[str, float]], fetched_s: float, stored_bytes: int) -> dict[str, Any]:
    ratios = [rate["s3"] / rate["chunks"] for rate in rates]
    return {
        "fetched_s": round(fetched_s, 2),
        "train_bytes_there": stored_bytes,
        "s3_to_chunks": round(statistics.median(ratios), 3),
        "s3_to_chunks_by_round": [round(ratio, 3) for ratio in ratios],
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
    parser.add_argument("--s3", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        store = {"cache": asked.cache or scratch, "short_side": asked.short_side}
        config = moco.recipe(asked.recipe, data=asked.data, store=store)
        if asked.batch_size is not None:
            config = replace(config, train=replace(config.train, batch_size=asked.batch_size))
        print(json.dumps(measure(config, asked.rounds, asked.steps, asked.s3, Path(scratch)), indent=1))


if __name__ == "__main__":
    main()
