"""Everything of a pre-training run but its directory: data, views, model, optimizer and monitors, at step 0."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from moco.config import Config
from moco.config_check import check
from moco.console import say
from moco.cosine import momentum
from moco.data.dataset import Dataset, open_dataset
from moco.data.duplicates import read_groups, shown_by
from moco.data.sampler import Sampler
from moco.data.store import digest_of
from moco.environment import describe
from moco.errors import UserError
from moco.evaluators.frozen import Frozen
from moco.evaluators.health import queue_health
from moco.evaluators.label_free import BEST_BY, SAID, LabelFreeMonitor
from moco.evaluators.leak import LeakMonitor
from moco.evaluators.monitors import LabelMonitor
from moco.evaluators.verdict import Setting, told
from moco.exchange.incoming import Weights
from moco.files import expanded
from moco.machine import Precision
from moco.model.backbone import check_backbone
from moco.model.moco import MoCo
from moco.model.recompute import recompute_blocks
from moco.model.small_maps import suit_processor
from moco.randomness import Purpose, torch_seed
from moco.ranks import ALONE, Ranks
from moco.rundir import RunDir
from moco.runs.start import begin_from, first_weights
from moco.runs.telling import sinks
from moco.runs.trained import build_model, labelled, pixel_source
from moco.runtime import Runtime
from moco.sinks.sink import check_installed
from moco.sizing import advice, sized
from moco.train.arithmetic import arithmetic
from moco.train.guard import FiniteGuard
from moco.train.loop import Evaluator, Loop, Monitors
from moco.train.optimizer import build_optimizer
from moco.train.state import Totals
from moco.train.step import MoCoStep
from moco.train.training import Training
from moco.train.windows import in_windows, windows_of
from moco.views.make import TrainingViews
from moco.views.pipelines import Crops, pipeline
from moco.views.source import Source


@dataclass(frozen=True)
class Prepared:
    """Everything of a run but its directory, at step 0."""

    config: Config
    data: Dataset
    runtime: Runtime
    training: Training
    monitors: Monitors
    about: dict[str, Any]

    def loop(self, run: RunDir) -> Loop:
        """The loop that trains it in `run`."""
        return Loop(run, self.training, self.runtime, self.monitors, {**self.about, "run": run.identity()})


def prepare(config: Config, decided: Precision | None = None, begins: bool = True, ranks: Ranks = ALONE) -> Prepared:
    """All that a run needs, at step 0. Raises `UserError` for anything that can't be trained; writes no run.

    `decided` is the precision of the run that is gone on with; where it `begins`, `model.init` is read. `ranks` is
    this process's place among those that train it.
    """
    runtime = Runtime(config.runtime, decided, ranks)
    if begins:
        check_installed(config.log)
    splittable = _splittable(config)
    start = first_weights(config) if begins else None
    groups: list[list[str]] = []
    if config.model.mask_groups is not None:  # found again from any folder, and read before anything is packed
        groups_file = expanded(config.model.mask_groups, "--model.mask_groups").absolute()
        groups = read_groups(groups_file)
        config = replace(config, model=replace(config.model, mask_groups=str(groups_file)))
    data = open_dataset(config.data, config.store, config.short_side)
    say(data.note)
    say(runtime.line())
    _check_same_images(data, runtime)
    config = replace(config, data=data.source, store=replace(config.store, format=data.format))
    config, decided_line = sized(config, len(data.train), runtime.device.type, splittable, ranks.world)
    check(config)
    for sentence in (decided_line, *advice(config, len(data.train))):
        if sentence:
            say(sentence)
    model = _model(config, start, runtime)
    optimizer = build_optimizer(model, config.optimizer, runtime.workers, runtime)
    ranks.rows(config.batch_size)  # divides, or raises
    source = pixel_source(data.train, runtime.device, announce=True)
    guard = FiniteGuard(optimizer, runtime.device)
    sampler = Sampler(len(data.train), config.batch_size, config.seed, windows_of(data.train, config.store.window))
    step = MoCoStep(
        model,
        optimizer,
        runtime,
        guard,
        config.seed,
        config.model.symmetric,
        _shown(config, groups, data.train.names, runtime.device),
        _momentum(config, sampler.steps_per_epoch),
        config.model.bn_shuffle,
        config.train.accumulate,
        config.runtime.cuda_graph,
        config.views.small_crops,
    )
    if runtime.device.type == "cuda" and config.runtime.cuda_graph and (reason := step.why_not_recorded()):
        say(f"steps are launched kernel by kernel, not as one CUDA graph: {reason}")
    assert step.parts.count  # made now: what doesn't divide is said before there is a run
    views = TrainingViews(
        source,
        Crops.of(config.views),
        config.seed,
        runtime.workers,
        ranks,
        config.bn_splits > 1 and config.model.bn_shuffle,
        config.model.symmetric,
    )
    training = Training(
        config=config,
        model=model,
        optimizer=optimizer,
        sampler=sampler,
        views=in_windows(views, sampler, data.train, config.epochs),
        train_step=step,
        guard=guard,
        totals=Totals(runtime.device),
    )
    monitors = _monitors(training, data, runtime, source)
    about = {
        **describe(), **runtime.about,
        "processes": ranks.world, "arithmetic": arithmetic(model, runtime, config.train.accumulate, optimizer),
        "compile": runtime.compile_mode, "data": data.fingerprints, "ranges": data.ranges,
        "windows": None if sampler.windows is None else digest_of(sampler.windows.chunk_of),
        "groups": _groups(config, step.shown),
    }  # fmt: skip
    return Prepared(config, data, runtime, training, monitors, about)


def _model(config: Config, start: Weights | None, runtime: Runtime) -> MoCo:
    """The network at its beginning, on the device, as it computes there."""
    torch.manual_seed(torch_seed(config.seed, Purpose.INIT))
    model = build_model(config)
    if start is not None:
        begin_from(model, start, config)
    if config.runtime.checkpoint_activations:
        recompute_blocks(model.encoder_q.backbone)
    if runtime.device.type == "cpu":
        suit_processor(model, runtime.float32_on_cpu)
    model.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    runtime.compile(model.encoder_q, model.encoder_k)
    return model


def _monitors(training: Training[Config], data: Dataset, runtime: Runtime, source: Source) -> Monitors:
    """What is measured at the epochs' ends: with labels where there are some, by proxies elsewhere, and health."""
    config, model = training.config, cast(MoCo, training.model)
    views, frozen = pipeline(config.views), frozen_backbone(training, runtime)
    evaluators: list[Evaluator] = []
    looks = 0.0
    if data.val is not None:
        val = labelled(data.val, runtime.device)
        evaluators.append(LabelMonitor(frozen, labelled(data.train, runtime.device, source), val, config.monitor))
        looks += config.views.centre_cost * (len(data.train) + len(data.val))
    if config.monitor.label_free or (config.monitor.label_free is None and data.val is None):
        proxies = LabelFreeMonitor(frozen, source, views, config.seed)
        evaluators.append(proxies)
        looks += proxies.looks
    if data.val is None and config.monitor.label_free is not False:
        say(SAID)
    leak = LeakMonitor(model, source, views, config.batch_size // config.bn_splits, runtime, config.seed)
    evaluators.append(leak)
    looks += leak.looks
    keys_a_step = config.batch_size * (2 if config.model.symmetric else 1)
    setting = Setting.of(config)
    return Monitors(
        evaluators,
        config.monitor_interval(len(data.train), looks),
        health=lambda: queue_health(model, training.progress.step * keys_a_step),
        diagnose=lambda rows: told(rows, setting),
        sink=sinks(training, source),
        best_by="knn_top1" if data.val is not None else BEST_BY,
    )


def frozen_backbone(training: Training[Config], runtime: Runtime) -> Frozen:
    config, model = training.config, cast(MoCo, training.model)
    encoder = model.encoder_q if config.monitor.encoder == "query" else model.encoder_k
    return Frozen.of(encoder.backbone, config.views, runtime)


def _shown(config: Config, groups: list[list[str]], names: list[str], device: torch.device) -> torch.Tensor | None:
    """What each training image shows, for the step to know its own keys by; None where all keys are negatives."""
    if not config.model.mask_own:
        return None
    shown, found = shown_by(names, groups)
    if groups:
        say(f"model.mask_groups: {found} of {len(groups)} groups have two training images or more")
    return torch.from_numpy(shown).to(device)


def _groups(config: Config, shown: torch.Tensor | None) -> str | None:
    """A digest of what `model.mask_groups` says of the training images; None without it."""
    return None if config.model.mask_groups is None or shown is None else digest_of(shown.cpu().numpy())


def _momentum(config: Config, steps_per_epoch: int) -> Callable[[int], float] | None:
    """m of the key encoder at a step; None where it stays."""
    if config.model.momentum_end is None:
        return None
    steps = config.epochs * steps_per_epoch
    start, end = config.model.momentum, config.model.momentum_end
    return lambda step: momentum(start, end, step / steps)


def _other_sizes(config: Config) -> tuple[int, ...]:
    """Sides of views that aren't `views.size`."""
    views = config.views
    measured = None if views.centre_size == views.size else views.centre_size
    return tuple(size for size in (views.early_size, views.small_size, measured) if size is not None)


def _splittable(config: Config) -> bool:
    """Whether the backbone's batch-norm can be split, asked only where the parts are open.

    Raises `UserError` for a backbone that can't be trained at all.
    """
    model, size = config.model, config.views.size
    check_backbone(model.backbone, size, model.small_stem, model.bn_splits or 1, _other_sizes(config))
    if model.bn_splits is not None:
        return True
    try:
        check_backbone(model.backbone, size, model.small_stem, 2)
    except UserError:
        return False
    return True


def _check_same_images(data: Dataset, runtime: Runtime) -> None:
    """All processes must read the same. Raises `UserError` naming those that read something else."""
    found = zlib.crc32(repr((data.format, sorted(data.fingerprints.items()))).encode())
    if others := runtime.differing(found):
        raise UserError(f"ranks {others} read other images than rank 0: is --data the same on all machines?")
