"""Pre-training a run: data, views, model, optimizer and monitors around the loop; begun, or gone on with."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from moco import checkpoint
from moco.config import Config, from_dict
from moco.config_check import check, flat
from moco.console import percent, say
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
from moco.files import read_json, write_json
from moco.launch import launch
from moco.model.backbone import check_backbone
from moco.model.moco import MoCo
from moco.model.recompute import recompute_blocks
from moco.model.small_maps import multiply_small_maps
from moco.randomness import Purpose, torch_seed
from moco.ranks import ALONE, Ranks
from moco.ranks import found as found_ranks
from moco.rundir import RunDir
from moco.runs.going_on import mend_best, to_go_on_from, what_changed
from moco.runs.start import begin_from, first_weights
from moco.runs.telling import show_features, sinks
from moco.runs.trained import Run, build_model, labelled, open_run, pixel_source
from moco.runtime import Precision, Runtime
from moco.sinks.sink import check_installed
from moco.sizing import advice, sized
from moco.train.guard import FiniteGuard
from moco.train.loop import Evaluator, Loop, Monitors
from moco.train.optimizer import build_optimizer
from moco.train.parts import arithmetic
from moco.train.schedule import momentum
from moco.train.state import Totals
from moco.train.step import MoCoStep
from moco.train.training import Training
from moco.train.windows import in_windows, windows_of
from moco.views.make import TwoViews
from moco.views.pipelines import early_pipeline, pipeline, scaling
from moco.views.source import Source

# What a resumed run may change: the rest is what the run is.
MAY_CHANGE = (
    "data",
    "log",
    "train.epochs",
    "train.accumulate",
    "checkpoint.",
    "monitor.",
    "runtime.",
    "store.cache",
    "store.max_bad",
    "store.remote_gb",
)
_RESUME = "moco pretrain --resume"
# The keys of `baseline.json`, and how a line calls them.
RANDOM, STARTED = "random_backbone_knn_top1", "start_knn_top1"
BEFORE = {"raw_pixels_knn_top1": "raw pixels", RANDOM: "random weights", STARTED: "the weights it started from"}


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


def pretrain(config: Config, out: str | os.PathLike[str], overwrite: bool = False) -> Run:
    """Train a backbone by `config` in a new run directory `out`, to the end.

    With `runtime.devices` it is done by as many processes of their own; started by torchrun or srun this is one of
    theirs. With `overwrite` the run that is there is replaced. Raises `UserError` before anything is made if something
    can't be right, `moco.errors.Interrupted` after a stop signal (everything is saved: `resume` goes on), and
    `moco.errors.TrainingFailed` where the loss is no longer finite.
    """
    check(config)
    ranks = found_ranks()
    if ranks.is_main:
        RunDir.check_free(out, overwrite)
    if (devices := _to_launch(config, ranks)) > 1:
        asked = {"config": config.as_dict(), "out": os.fspath(out), "overwrite": overwrite}
        launch(devices, f"{__name__}:pretrain_rank", asked, f"go on with: {_RESUME} {shlex.quote(os.fspath(out))}")
        return open_run(out)
    prepared = prepare(config, ranks=ranks)
    with RunDir.created(out, overwrite) if ranks.is_main else contextlib.nullcontext(RunDir(Path(out))) as run:
        prepared.runtime.barrier()
        loop = prepared.loop(run)
        with _noting_failure(run, ranks):
            if ranks.is_main:
                run.write_config(prepared.config, {**loop.about, "data_as_given": config.data, "command": sys.argv})
            if config.model.init is not None:
                loop.save()  # from here on the run doesn't need what it started from
            _measure_baseline(loop, run)
            loop.train()
    _conclude(loop, prepared)
    return open_run(out)


def pretrain_rank(config: dict[str, Any], out: str, overwrite: bool) -> None:
    """`pretrain` in one of the processes of `launch`, from plain values."""
    pretrain(from_dict(config), out, overwrite)


def resume_rank(run: str, config: dict[str, Any]) -> None:
    """`resume` in one of the processes of `launch`, from plain values."""
    resume(run, from_dict(config))


def _to_launch(config: Config, ranks: Ranks) -> int:
    """How many processes to start. Raises `UserError` where somebody else has started another number."""
    asked = config.runtime.devices or 1
    if ranks.world == 1:
        if config.train.batch_size is not None:
            Ranks(world=asked).rows(config.train.batch_size)  # divides, or is said at once
        return asked
    if asked not in (1, ranks.local_world):
        raise UserError(
            f"runtime.devices is {asked}, but {ranks.by} started {ranks.local_world} processes here: leave it out"
        )
    return 1


def _noting_failure(run: RunDir, ranks: Ranks) -> contextlib.AbstractContextManager[None]:
    return run.noting_failure() if ranks.is_main else contextlib.nullcontext()


def resume(run: str | os.PathLike[str], config: Config | None = None) -> Run:
    """Go on with an interrupted run, to the same bits as if it had never stopped.

    `config` may differ from the run's own in what `MAY_CHANGE` lists. Raises as `pretrain` does, and `UserError` for
    other data or options than it began with, and where there are checkpoints but none is whole.
    """
    folder = RunDir.open(run)
    saved = folder.read_config()
    saved = _with_format(saved, "raw")  # before there was a choice
    config = saved if config is None else _with_format(config, saved.store.format)
    check(config)
    quoted = shlex.quote(os.fspath(run))
    differences = forbidden_changes(saved, config)
    if differences:
        raise UserError(f"--resume {quoted} with other options than it began with: " + "; ".join(differences))
    ranks = found_ranks()
    if (devices := _to_launch(config, ranks)) > 1:
        asked = {"run": os.fspath(run), "config": config.as_dict()}
        launch(devices, f"{__name__}:resume_rank", asked, f"go on with: {_RESUME} {quoted}")
        return open_run(run)
    with folder.locked() if ranks.is_main else contextlib.nullcontext():
        found = to_go_on_from(folder)
        if found is not None:
            _check_whole(found.content, folder)
        decided = None if found is None else Precision(found.content["about"]["precision"], "as this run began")
        prepared = prepare(config, decided, begins=found is None, ranks=ranks)
        _check_same_step(found, prepared.runtime)
        loop = prepared.loop(folder)
        if config.model.init is None or found is None:
            _measure_baseline(loop, folder)  # if a kill left none: the weights are still those of the beginning
        if found is None:
            say("no checkpoint yet: starting this run from its beginning")
        else:
            _go_on(loop, found, prepared, saved)
        with _noting_failure(folder, ranks):
            if ranks.is_main:
                folder.write_config(prepared.config, {**loop.about, "data_as_given": config.data, "command": sys.argv})
            loop.train()
    _conclude(loop, prepared)
    return open_run(run)


def _check_same_step(found: checkpoint.Found | None, runtime: Runtime) -> None:
    """All processes must go on from the same checkpoint. Raises `UserError` naming those that see another."""
    if others := runtime.differing(-1 if found is None else found.content["step"]):
        raise UserError(f"ranks {others} find other checkpoints than rank 0: is the run on a disk that all share?")


def _check_same_images(data: Dataset, runtime: Runtime) -> None:
    """All processes must read the same. Raises `UserError` naming those that read something else."""
    found = zlib.crc32(repr((data.format, sorted(data.fingerprints.items()))).encode())
    if others := runtime.differing(found):
        raise UserError(f"ranks {others} read other images than rank 0: is --data the same on all machines?")


def _with_format(config: Config, decided: str) -> Config:
    """`config` with the store's format where it leaves that open: what a run decided is never decided again."""
    if config.store.format != "auto":
        return config
    return replace(config, store=replace(config.store, format=decided))  # type: ignore[arg-type]


def _go_on(loop: Loop, found: checkpoint.Found, prepared: Prepared, saved: Config) -> None:
    """Put the training where the checkpoint was written."""
    content, training = found.content, loop.training
    if content["about"]["data"] is None:
        content = placed(content, loop.run.root, prepared)
    else:
        _check_same(content["about"], prepared)
    _say_new_schedule(saved, prepared.config, content["state"]["rows"])
    training.load_state_dict(dict(content))
    prepared.runtime.barrier()  # nobody looks for checkpoints any more
    if prepared.runtime.is_main:
        checkpoint.set_aside(found.damaged)
        mend_best(loop.run, found, training.sampler.steps_per_epoch)
    if training.progress.step == 0 and prepared.config.model.init is not None:
        _measure_baseline(loop, loop.run)
    say(f"resuming at step {training.progress.step} (epoch {training.epoch + 1})")


def _check_whole(content: checkpoint.Content, folder: RunDir) -> None:
    """Raises `UserError` for an imported checkpoint that lacks the optimizer or a queue."""
    imported = content["about"].get("imported")
    if imported is not None and not imported["resumable"]:
        raise UserError(
            f"{folder.root} was imported from {imported['file']}, which lacks what a run is gone on with: begin one "
            f"from its weights with --model.init {shlex.quote(str(folder.root))}"
        )


def placed(content: checkpoint.Content, run: Path, prepared: Prepared) -> checkpoint.Content:
    """An imported checkpoint, at the step that its epochs are of the images that it is gone on with.

    Raises `UserError` where there is nothing left to do.
    """
    epochs = len(content["state"]["rows"])
    step = epochs * prepared.training.sampler.steps_per_epoch
    if step >= prepared.training.steps:
        raise UserError(f"all {epochs} epochs of {run} are done: give --train.epochs {epochs + 200} to go on")
    say(f"imported weights: their {epochs} epochs are {step} steps of these images; they are the run's from here on")
    return {**content, "step": step, "state": {**content["state"], "step": step}}


def prepare(config: Config, decided: Precision | None = None, begins: bool = True, ranks: Ranks = ALONE) -> Prepared:
    """All that a run needs, at step 0. Raises `UserError` for anything that can't be trained; writes no run.

    `decided` is the precision of the run that is gone on with; where it `begins`, `model.init` is read. `ranks` is
    this process's place among those that train it.
    """
    runtime = Runtime(config.runtime, decided, ranks)
    check_installed(config.log)
    splittable = _splittable(config)
    start = first_weights(config) if begins else None
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
    torch.manual_seed(torch_seed(config.seed, Purpose.INIT))
    model = build_model(config)
    if start is not None:
        begin_from(model, start, config)
    if config.runtime.checkpoint_activations:
        recompute_blocks(model.encoder_q.backbone)
    if runtime.device.type == "cpu":
        multiply_small_maps(model.encoder_q)
    model.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    runtime.compile(model.encoder_q, model.encoder_k)
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
        _shown(config, data.train.names, runtime.device),
        _momentum(config, sampler.steps_per_epoch),
        config.model.bn_shuffle,
        config.train.accumulate,
        config.runtime.cuda_graph,
    )
    if runtime.device.type == "cuda" and config.runtime.cuda_graph and (reason := step.why_not_recorded()):
        say(f"steps are launched kernel by kernel, not as one CUDA graph: {reason}")
    assert step.parts.count  # made now: what doesn't divide is said before there is a run
    views = TwoViews(
        source,
        pipeline(config.views),
        config.seed,
        runtime.workers,
        ranks,
        config.bn_splits > 1 and config.model.bn_shuffle,
        config.model.symmetric,
        early_pipeline(config.views),
        config.views.early_epochs or 0,
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
        **describe(), "precision": runtime.precision, "reason": runtime.reason, "threads": runtime.threads,
        "processes": ranks.world, "arithmetic": arithmetic(model, runtime),
        "compile": runtime.compile_mode, "data": data.fingerprints, "ranges": data.ranges,
        "windows": None if sampler.windows is None else digest_of(sampler.windows.chunk_of),
    }  # fmt: skip
    return Prepared(config, data, runtime, training, monitors, about)


def _monitors(training: Training[Config], data: Dataset, runtime: Runtime, source: Source) -> Monitors:
    """What is measured at the epochs' ends: with labels where there are some, by proxies elsewhere, and health."""
    config, model = training.config, cast(MoCo, training.model)
    views, frozen = pipeline(config.views), _frozen(training, runtime)
    evaluators: list[Evaluator] = []
    looks = 0
    if data.val is not None:
        val = labelled(data.val, runtime.device)
        evaluators.append(LabelMonitor(frozen, labelled(data.train, runtime.device, source), val, config.monitor))
        looks += len(data.train) + len(data.val)
    if config.monitor.label_free or (config.monitor.label_free is None and data.val is None):
        proxies = LabelFreeMonitor(frozen, source, views, config.seed)
        evaluators.append(proxies)
        looks += proxies.looks
    if data.val is None and config.monitor.label_free is not False:
        say(SAID)
    leak = LeakMonitor(model, source, views, config.batch_size // config.bn_splits, runtime, config.seed)
    keys_a_step = config.batch_size * (2 if config.model.symmetric else 1)
    setting = Setting.of(config)
    return Monitors(
        evaluators,
        config.monitor_interval(len(data.train), looks),
        health=lambda: [*queue_health(model, training.progress.step * keys_a_step), *leak()],
        diagnose=lambda rows: told(rows, setting),
        sink=sinks(training, source),
        best_by="knn_top1" if data.val is not None else BEST_BY,
    )


def _frozen(training: Training[Config], runtime: Runtime) -> Frozen:
    config, model = training.config, cast(MoCo, training.model)
    encoder, views = model.encoder_q if config.monitor.encoder == "query" else model.encoder_k, config.views
    return Frozen(encoder.backbone, views.size, runtime, scaling(views))


def _shown(config: Config, names: list[str], device: torch.device) -> torch.Tensor | None:
    """What each training image shows, for the step to know its own keys by; None where all keys are negatives."""
    if not config.model.mask_own:
        return None
    groups = [] if config.model.mask_groups is None else read_groups(Path(config.model.mask_groups).expanduser())
    shown, found = shown_by(names, groups)
    if groups:
        say(f"model.mask_groups: {found} of {len(groups)} groups have two training images or more")
    return torch.from_numpy(shown).to(device)


def _momentum(config: Config, steps_per_epoch: int) -> Callable[[int], float] | None:
    """m of the key encoder at a step; None where it stays."""
    if config.model.momentum_end is None:
        return None
    return partial(momentum, config.model.momentum, config.model.momentum_end, config.epochs * steps_per_epoch)


def _splittable(config: Config) -> bool:
    """Whether the backbone's batch-norm can be split, asked only where the parts are open.

    Raises `UserError` for a backbone that can't be trained at all.
    """
    model, size = config.model, config.views.size
    check_backbone(model.backbone, size, model.small_stem, model.bn_splits or 1, config.views.early_size)
    if model.bn_splits is not None:
        return True
    try:
        check_backbone(model.backbone, size, model.small_stem, 2)
    except UserError:
        return False
    return True


def _check_same(about: dict[str, Any], prepared: Prepared) -> None:
    """Raises `UserError` for other images; says what else differs from where the run began, as that changes bits."""
    if about["data"] != prepared.about["data"]:
        raise UserError("the data has changed since this run began: resume needs the same images")
    if about.get("windows") != prepared.about["windows"]:
        raise UserError("the images lie in other chunks than when this run began: store.window needs the same store")
    words = what_differs(about, prepared)
    if words:
        say(f"this run began {'; '.join(words)}: it goes on, but not to the same bits")


def what_differs(about: dict[str, Any], prepared: Prepared) -> list[str]:
    """What changes bits since the checkpoint that `about` is of, in phrases; empty where nothing does."""
    words = what_changed(about, prepared.about)
    if "arithmetic" not in about and prepared.runtime.device.type == "cpu" and prepared.config.bn_splits > 1:
        words.append("before the parts of a batch had threads of their own")
    return words


def _say_new_schedule(saved: Config, config: Config, rows: list[Any]) -> None:
    """More or fewer epochs stretch the schedule: the learning rate jumps to where the new one stands."""
    if saved.train.epochs != config.train.epochs and rows and rows[-1].get("lr") is not None:
        say(
            f"train.epochs was {saved.train.epochs}, now {config.train.epochs}: the learning rate follows the new "
            f"schedule from here on (it was {rows[-1]['lr']:.3g} in epoch {rows[-1]['epoch']})"
        )


def _conclude(loop: Loop, prepared: Prepared) -> None:
    """What came of it, and what to type next."""
    run, done = loop.run, loop.training.progress
    show_features(run, _frozen(prepared.training, prepared.runtime), prepared.data)
    place = shlex.quote(str(run.root))
    say(f"done: {done.step} steps, checkpoints in {run.checkpoints}")
    if prepared.data.val is None:
        if done.best is not None:
            say(f"best {loop.monitors.best_by} {percent(done.best, 1)} at epoch {done.best_epoch} (a proxy: no labels)")
        say(f"next: moco report {place}; the backbone is in {run.checkpoints / 'last.pt'}")
        return
    row = done.rows[-1]
    if run.baseline_file.exists() and row.get("knn_top1") is not None:
        before = read_json(run.baseline_file, "baseline")
        told = "   ".join(f"{words} {percent(before[key], 1)}" for key, words in BEFORE.items() if key in before)
        say(f"kNN top-1 on validation:  {told}   trained {percent(row['knn_top1'], 1)}")
    if done.best is not None:
        best = f"best {loop.monitors.best_by} {percent(done.best, 1)} at epoch {done.best_epoch}"
        say(f"{best} (chosen on validation: optimistic)")
    say(f"next: moco linear {place}   then  moco evaluate {place}  and  moco report {place}")


def _measure_baseline(loop: Loop, run: RunDir) -> None:
    """kNN before learning, once a run."""
    if loop.runtime.told(run.baseline_file.exists()) or not loop.training.config.monitor.baseline:
        return
    for evaluator in loop.monitors.evaluators:
        if isinstance(evaluator, LabelMonitor):
            start = RANDOM if loop.training.config.model.init is None else STARTED
            found = evaluator.baseline(start)
            if loop.runtime.is_main:
                write_json(run.baseline_file, found)
            told = ", ".join(f"{BEFORE[key]} {percent(value, 1)}" for key, value in found.items())
            say(f"kNN before training: {told}")


def forbidden_changes(saved: Config, asked: Config) -> list[str]:
    """What of a run's configuration is asked to change and may not, in phrases."""
    before, after = flat(_with_format(saved, "raw")), flat(_with_format(asked, "raw"))
    return [
        f"{name} was {before[name]}, now {after[name]}"
        for name in before
        if before[name] != after[name] and not name.startswith(MAY_CHANGE)
    ]


def default_out(recipe: str) -> str:
    """Where a run goes that was given no place: below `runs`, called as its recipe."""
    return str(Path("runs") / Path(recipe).stem)
