"""Throughput here, against the limit of this machine."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moco.config import Config
from moco.config_check import check
from moco.data import shapes
from moco.data.dataset import built_in, is_store
from moco.data.folder import scan
from moco.data.pack import pack_items
from moco.errors import UserError
from moco.files import read_json, write_json
from moco.reporting.ours import signed
from moco.runs.preparing import Prepared, prepare
from moco.timing.load import busy_neighbours
from moco.timing.measure import Figure, Subject, interleaved
from moco.timing.stopwatch import Stopwatch
from moco.train.step import MoCoStep

PROGRAM = "moco bench"  # in the file
PACKED_IMAGES = 512  # packed for the packing figure
LEAST_TIMED_STEPS = 5  # of the breakdown


@dataclass(frozen=True)
class Bench:
    """What was measured.

    Attributes:
        full: samples/s of the training step on real data, views included.
        compute_only: samples/s of the same step on views made beforehand: the limit.
        views: views/s, nothing else being done.
        pack: images/s packed from files, decoding included.
        breakdown_ms: milliseconds of each part of a step, the median.
        setting: what was measured, by name.
        machine: processor, cores, instruction sets, GPUs, versions, device, precision and why.
    """

    full: Figure
    compute_only: Figure
    views: Figure
    pack: Figure
    breakdown_ms: dict[str, float]
    setting: dict[str, Any]
    machine: dict[str, Any]

    @property
    def full_to_compute_only(self) -> float:
        """How near the whole step comes to its limit."""
        return self.full.median / self.compute_only.median

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        values = {**asdict(self), "full_to_compute_only": self.full_to_compute_only}
        write_json(path, signed(values, PROGRAM))

    @classmethod
    def load(cls, path: Path) -> Bench:
        """Read what `save` wrote. Raises `UserError` if it is missing, damaged, or something else."""
        values = read_json(path, "benchmark")
        try:
            full, compute_only, views, pack = (
                Figure(**values[name]) for name in ("full", "compute_only", "views", "pack")
            )
            return cls(full, compute_only, views, pack, values["breakdown_ms"], values["setting"], values["machine"])
        except (TypeError, KeyError) as error:
            raise UserError(f"{path} is no benchmark that this version of moco reads") from error


def bench(config: Config, rounds: int = 5, steps: int = 5, load: int = 0) -> Bench:
    """Measure the step that `config` describes, in `rounds` interleaved rounds of `steps` each; medians.

    `load` busy processes run beside it. Raises `UserError` for bad options or data.
    """
    check(config)
    for name, value, least in (("rounds", rounds, 1), ("steps", steps, 1), ("load", load, 0)):
        if value < least:
            raise UserError(f"--{name} is {value}, give {least} or more")
    if config.data is None:
        raise UserError("no data: give --data FOLDER, or --data shapes")
    if (config.runtime.devices or 1) > 1:
        raise UserError("moco bench measures one process: leave out --runtime.devices")
    prepared = prepare(replace(config, views=replace(config.views, early_size=None, early_epochs=None)))
    with busy_neighbours(load):
        found, breakdown = _steps(prepared, rounds, steps)
        pack = _packing(prepared.config, rounds)
    setting = {**_setting(prepared), "rounds": rounds, "steps_a_round": steps, "load": load}
    full, compute_only, views = found["full"], found["compute_only"], found["views"]
    return Bench(full, compute_only, views, pack, breakdown, setting, _machine(prepared))


def _steps(prepared: Prepared, rounds: int, steps: int) -> tuple[dict[str, Figure], dict[str, float]]:
    training, runtime = prepared.training, prepared.runtime
    batch, count = training.sampler.batch_size, 2 + prepared.config.views.small_crops
    batches: Iterator[NDArray[np.int64]] = itertools.cycle(training.sampler.order(0))
    first = training.batch(next(batches))
    fixed = training.views(first)
    training.model.train()

    def repeated(once: Any) -> Any:
        def run() -> None:
            for _ in range(steps):
                once()
            runtime.synchronize()

        return run

    figures = interleaved(
        [
            Subject("full", repeated(lambda: training.step(next(batches))), steps * batch),
            Subject("compute_only", repeated(lambda: training.learn(fixed, first)), steps * batch),
            Subject("views", repeated(lambda: training.views(training.batch(next(batches)))), steps * batch * count),
        ],
        rounds,
    )
    watch = Stopwatch(runtime)
    assert isinstance(training.train_step, MoCoStep)
    if runtime.device.type == "cuda":  # a recorded step is one launch: its parts are timed launched one by one
        training.train_step = replace(training.train_step, record=False)
    watch.install(training.train_step.model, training.optimizer, training.train_step.parts.models)
    for _ in range(max(steps, LEAST_TIMED_STEPS)):
        timed = training.batch(next(batches))
        watch.step(partial(training.views, timed), partial(training.learn, batch=timed))
    watch.remove()
    return figures, watch.medians()


def _packing(config: Config, rounds: int) -> Figure:
    """Images packed per second from files, decoding included."""
    with tempfile.TemporaryDirectory() as scratch:
        source = str(config.data)
        if built_in(source) or is_store(source):  # as the JPEG files that they would be: a store has none
            source = f"{scratch}/shapes"
            Path(source).mkdir()
            for i in range(PACKED_IMAGES):
                Image.fromarray(shapes.make_image("train", i)).save(f"{source}/{i}.jpg")
        items = scan(source)[:PACKED_IMAGES]
        numbers = itertools.count()

        def pack() -> None:
            pack_items(Path(scratch) / f"pack{next(numbers)}", items, config.short_side, 1.0, quiet=True)

        return interleaved([Subject("pack", pack, len(items))], rounds)["pack"]


def _setting(prepared: Prepared) -> dict[str, Any]:
    config = prepared.config
    return {
        "backbone": config.model.backbone,
        "size": config.views.size,
        "small_crops": config.views.small_crops,
        "small_size": config.views.small_size,
        "pipeline": config.views.pipeline,
        "batch_size": config.batch_size,
        "queue_size": config.queue_size,
        "bn_splits": config.bn_splits,
        "symmetric": config.model.symmetric,
        "data": config.data,
        "threads": prepared.runtime.threads,
    }


def _machine(prepared: Prepared) -> dict[str, Any]:
    about, runtime = prepared.about, prepared.runtime
    return {
        **{key: about[key] for key in ("processor", "cores", "instruction_sets", "gpus", "versions")},
        "device": str(runtime.device),
        "precision": runtime.precision,
        "precision_reason": runtime.reason,
    }
