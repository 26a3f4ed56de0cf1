"""Runs made to fail on purpose, and sound ones beside them: what teaches the health verdict its thresholds.

    python benchmarks/health.py [--json FILE] [--only NAME ...] [--add RUN ...] [--cores 1]

Each run is a small network on 1,536 pictures of the built-in glyphs (or on pictures of one grey), 6 epochs of 24
steps. The table shows the verdict at the end and the first epoch that it was given in. `--add` takes the rows of runs
that are there (the shipped recipes'). `--json` is read before it is written: runs that are in it stay unless they are
made again, so that the set can grow. tests/evaluators/test_verdict.py holds the verdict to it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import moco
from moco.config import Config, from_dict
from moco.config_check import flat
from moco.console import Silent, listening
from moco.data.shapes import CLASSES, label_of, make_image
from moco.environment import describe
from moco.errors import TrainingFailed, UserError
from moco.evaluators.verdict import Setting, verdict
from moco.files import write_json

TRAIN, VAL, EPOCHS = 1536, 384, 6
BASE: dict[str, Any] = {
    "views": {"size": 32, "scale_min": 0.15},
    "model": {
        "backbone": "timm/test_resnet", "queue_size": 1024, "momentum": 0.99, "temperature": 0.2, "bn_splits": 2,
    },
    "optimizer": {"lr": 0.06, "weight_decay": 5e-4},
    "schedule": {"per": "step", "warmup_epochs": 0.5},
    "train": {"epochs": EPOCHS, "batch_size": 64},
    "monitor": {"every_epochs": 2, "logistic": False, "label_free": True},
    "checkpoint": {"every_epochs": 1000, "every_minutes": 0},
}  # fmt: skip
SAME = {"pipeline": "crop_flip", "scale_min": 1.0, "ratio": [1.0, 1.0], "flip_p": 0.0}
MUON = {"name": "muon", "momentum": 0.95, "weight_decay": 0.05}


@dataclass(frozen=True)
class Case:
    """A run: `sign` is what the verdict has to say of it, by `options` over `BASE`."""

    sign: str
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    data: str = "glyphs"


CASES = {
    "sound": Case("learning"),
    "sound, another seed": Case("learning", {"": {"seed": 1}}),
    "sound, Muon, T 0.1": Case("learning", {"optimizer": {**MUON, "lr": 0.01}, "model": {"temperature": 0.1}}),
    "sound, T 0.07, linear head": Case("learning", {"model": {"temperature": 0.07, "mlp": False}}),
    "sound, lr 0.3": Case("learning", {"optimizer": {"lr": 0.3}}),
    "sound, lr 0.01": Case("learning", {"optimizer": {"lr": 0.01}}),
    "lr 0": Case("lr too low", {"optimizer": {"lr": 1e-12}}),
    "lr 0.00001": Case("lr too low", {"optimizer": {"lr": 1e-5}}),
    "lr 0.0001": Case("lr too low", {"optimizer": {"lr": 1e-4}}),
    "lr 3": Case("lr too high", {"optimizer": {"lr": 3.0}}),
    "lr 30": Case("lr too high", {"optimizer": {"lr": 30.0}}),
    "Muon, lr 1": Case("lr too high", {"optimizer": {**MUON, "lr": 1.0}}),
    "T 0.001": Case("temperature", {"model": {"temperature": 0.001}}),
    "T 10": Case("temperature", {"model": {"temperature": 10.0}}),
    "identical views": Case("too easy", {"views": SAME}),
    "constant images": Case("collapse", data="grey"),
    # A leak was tried for and did not come in so short a run: query and key are found no better together than apart.
    "one part of 16": Case("learning", {"model": {"bn_splits": 1}, "train": {"batch_size": 16}}),
    "one part of 16, batch-norm in the head": Case(
        "learning", {"model": {"bn_splits": 1, "head_batchnorm": True}, "train": {"batch_size": 16}}
    ),
    "two parts of 16, batch-norm in the head": Case(
        "learning", {"model": {"bn_splits": 2, "head_batchnorm": True}, "train": {"batch_size": 32}}
    ),
}


def pictures(kind: str, root: Path) -> Path:
    """A split tree of class folders: glyphs of the built-in set, or as many pictures of one grey."""
    place = root / kind
    for split, count in (("train", TRAIN), ("val", VAL)):
        for index in range(count):
            folder = place / split / CLASSES[label_of(index)]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = make_image(split, index) if kind == "glyphs" else np.full((64, 64, 3), 128, np.uint8)
            Image.fromarray(pixels).save(folder / f"{index:04}.png", compress_level=1)
    return place


def configured(case: Case, data: Path, cache: Path, threads: int) -> Config:
    """`BASE` with the case's own options."""
    values: dict[str, Any] = {name: dict(section) for name, section in BASE.items()}
    for section, options in case.options.items():
        values.setdefault(section, {}).update(options)
    top = values.pop("", {})
    values |= {"data": str(data), "store": {"cache": str(cache)}, "runtime": {"device": "cpu", "threads": threads}}
    return from_dict({**values, **top})


def made(case: Case, root: Path, threads: int) -> dict[str, Any]:
    """The run's rows. A loss that isn't finite ends it: its rows are those before, and `failed` says why."""
    place = root / case.data
    place = place if place.is_dir() else pictures(case.data, root)
    config = configured(case, place, root / "cache", threads)
    out, failed = root / "run", None
    with listening(Silent()):
        try:
            moco.pretrain(config, out, overwrite=True)
        except (TrainingFailed, UserError) as failure:
            failed = str(failure)
    run = moco.open_run(out)
    if failed is not None and not (out / "metrics.csv").is_file():
        return {"sign": case.sign, "options": changed(config), "rows": [], "failed": failed}
    baseline = json.loads((out / "baseline.json").read_text())
    return {"sign": case.sign, "options": changed(run.config), "rows": run.metrics, "failed": failed, **baseline}


def changed(config: Config) -> dict[str, Any]:
    """What of a run's configuration isn't the default, without places."""
    default = flat(Config())
    return {k: v for k, v in flat(config).items() if v != default[k] and k not in ("data", "store.cache")}


def added(run: str) -> dict[str, Any]:
    """The rows of a run that is there: a sound one."""
    opened = moco.open_run(run)
    return {"sign": "learning", "options": changed(opened.config), "rows": opened.metrics, "failed": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="*", choices=[*CASES], default=[*CASES], metavar="NAME")
    parser.add_argument("--add", nargs="*", default=[], metavar="RUN")
    parser.add_argument("--cores", type=int, default=1)
    asked = parser.parse_args()
    there = asked.json is not None and asked.json.is_file()
    found: dict[str, Any] = json.loads(asked.json.read_text())["runs"] if there else {}
    found |= {Path(run).name: added(run) for run in asked.add}
    with tempfile.TemporaryDirectory() as scratch:
        for name in asked.only:
            found[name] = made(CASES[name], Path(scratch), asked.cores)
            show(name, found[name])
            if asked.json is not None:
                write_json(asked.json, {"environment": describe(), "base": BASE, "runs": found})
    if asked.json is not None:
        write_json(asked.json, {"environment": describe(), "base": BASE, "runs": found})


def show(name: str, run: dict[str, Any]) -> None:
    """A line of the table: what was expected, the verdict and its first epoch, and the last row's figures."""
    setting = Setting.of(from_flat(run["options"]))
    said = [verdict(run["rows"][: n + 1], setting).sign for n in range(len(run["rows"]))]
    last = run["rows"][-1] if run["rows"] else {}
    figures = "  ".join(f"{k} {last[k]:.4g}" for k in SHOWN if last.get(k) is not None)
    first = said.index(said[-1]) + 1 if said else 0
    print(f"{name:30} {run['sign']:12} {said[-1] if said else 'failed':12} from epoch {first}  {figures}", flush=True)


SHOWN = (
    "loss", "contrast_top1", "embedding_std", "key_lag", "contrast_by_batch_statistics",
    "contrast_by_running_statistics", "knn_top1", "feature_rank", "lidar", "view_top1",
)  # fmt: skip


def from_flat(options: dict[str, Any]) -> Config:
    """The configuration whose changed options are `options`, by dotted name."""
    values: dict[str, Any] = {}
    for name, value in options.items():
        section, _, field_name = name.rpartition(".")
        target = values.setdefault(section, {}) if section else values
        target[field_name] = value
    return from_dict(values)


if __name__ == "__main__":
    main()
