"""Pre-training a run: begun, or gone on with, by one process or several."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from moco import checkpoint
from moco.config import Config, from_dict
from moco.config_check import check
from moco.console import percent, say
from moco.errors import UserError
from moco.evaluators.monitors import LabelMonitor
from moco.evaluators.proof import fingerprint
from moco.files import read_json, write_json
from moco.fresh_run import check_free, created
from moco.launch import launch
from moco.machine import Precision
from moco.ranks import Ranks
from moco.ranks import found as found_ranks
from moco.rundir import RunDir
from moco.runs.going_on import check_config, forbidden_changes, mend_best, to_go_on_from, what_changed, with_format
from moco.runs.preparing import Prepared, frozen_backbone, prepare
from moco.runs.telling import show_features
from moco.runs.trained import Run, open_run
from moco.runtime import Runtime
from moco.train.loop import Loop

_RESUME = "moco pretrain --resume"
# The keys of `baseline.json`, and how a line calls them.
RANDOM, STARTED = "random_backbone_knn_top1", "start_knn_top1"
BEFORE = {"raw_pixels_knn_top1": "raw pixels", RANDOM: "random weights", STARTED: "the weights it started from"}


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
        check_free(out, overwrite)
    if (devices := _to_launch(config, ranks)) > 1:
        asked = {"config": config.as_dict(), "out": os.fspath(out), "overwrite": overwrite}
        launch(devices, f"{__name__}:pretrain_rank", asked, f"go on with: {_RESUME} {shlex.quote(os.fspath(out))}")
        return open_run(out)
    prepared = prepare(config, ranks=ranks)
    with created(out, overwrite) if ranks.is_main else contextlib.nullcontext(RunDir(Path(out))) as run:
        prepared.runtime.barrier()
        loop = prepared.loop(run)
        with loop.telling(), _noting_failure(run, ranks):
            if ranks.is_main:
                began = {"data_as_given": config.data, "command": sys.argv, "start_sha256": _start_digest(prepared)}
                run.write_config(prepared.config, {**loop.about, **began})
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

    `config` may differ from the run's own in what `going_on.MAY_CHANGE` lists. Raises as `pretrain` does, and
    `UserError` for other data or options than it began with, and where there are checkpoints but none is whole.
    """
    folder = RunDir.open(run)
    saved = folder.read_config()
    saved = with_format(saved, "raw")  # before there was a choice
    config = saved if config is None else with_format(config, saved.store.format)
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
            check_config(folder, found.content, saved)
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
        with loop.telling(), _noting_failure(folder, ranks):
            if ranks.is_main:
                folder.write_config(prepared.config, {**loop.about, **_as_begun(folder, saved, config)})
            loop.train()
    _conclude(loop, prepared)
    return open_run(run)


def _as_begun(folder: RunDir, saved: Config, config: Config) -> dict[str, Any]:
    """The command line that the run began with, the data as it was last given, and the command lines since."""
    before = folder.read_environment()
    data = before.get("data_as_given", config.data) if config.data == saved.data else config.data
    return {
        "data_as_given": data,
        "command": before.get("command", sys.argv),
        "start_sha256": before.get("start_sha256"),
        "resumed": [*before.get("resumed", []), sys.argv],
    }


def _start_digest(prepared: Prepared) -> str | None:
    """Of the weights that a run begins with, where `model.init` names them: that file may change."""
    return None if prepared.config.model.init is None else fingerprint(prepared.training.model)


def _check_same_step(found: checkpoint.Found | None, runtime: Runtime) -> None:
    """All processes must go on from the same checkpoint. Raises `UserError` naming those that see another."""
    if others := runtime.differing(-1 if found is None else found.content["step"]):
        raise UserError(f"ranks {others} find other checkpoints than rank 0: is the run on a disk that all share?")


def _go_on(loop: Loop, found: checkpoint.Found, prepared: Prepared, saved: Config) -> None:
    """Put the training where the checkpoint was written."""
    content, training = found.content, loop.training
    if content["about"]["data"] is None:
        content = at_its_step(content, loop.run.root, prepared)
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


def at_its_step(content: checkpoint.Content, run: Path, prepared: Prepared) -> checkpoint.Content:
    """An imported checkpoint, at the step that its epochs are of the images that it is gone on with.

    Raises `UserError` where there is nothing left to do.
    """
    epochs = len(content["state"]["rows"])
    step = epochs * prepared.training.sampler.steps_per_epoch
    if step >= prepared.training.steps:
        raise UserError(f"all {epochs} epochs of {run} are done: give --train.epochs {epochs + 200} to go on")
    say(f"imported weights: their {epochs} epochs are {step} steps of these images; they are the run's from here on")
    return {**content, "step": step, "state": {**content["state"], "step": step}}


def _check_same(about: dict[str, Any], prepared: Prepared) -> None:
    """Raises `UserError` for other images; says what else differs from where the run began, as that changes bits."""
    if about["data"] != prepared.about["data"]:
        raise UserError("the data has changed since this run began: resume needs the same images")
    if about.get("windows") != prepared.about["windows"]:
        raise UserError("the images lie in other chunks than when this run began: store.window needs the same store")
    if about.get("groups") not in (None, prepared.about["groups"]):
        raise UserError(f"{prepared.config.model.mask_groups} has other groups than when this run began: put it back")
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
    """More or fewer epochs stretch the schedule: what follows it jumps to where the new one stands."""
    if saved.train.epochs == config.train.epochs:
        return
    rate = rows[-1].get("lr") if rows else None
    was = "" if rate is None else f" (the rate was {rate:.3g} in epoch {rows[-1]['epoch']})"
    what = "the learning rate follows" if config.model.momentum_end is None else "learning rate and momentum follow"
    say(f"train.epochs was {saved.train.epochs}, now {config.train.epochs}: {what} the new schedule from here on{was}")


def _conclude(loop: Loop, prepared: Prepared) -> None:
    """What came of it, and what to type next."""
    run, done = loop.run, loop.training.progress
    show_features(run, frozen_backbone(prepared.training, prepared.runtime), prepared.data)
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


def default_out(recipe: str) -> str:
    """Where a run goes that was given no place: below `runs`, called as its recipe."""
    return str(Path("runs") / Path(recipe).stem)
