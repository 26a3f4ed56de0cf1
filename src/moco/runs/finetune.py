"""Fine-tuning: the whole network learns from labels, beginning at a run's weights or, to compare, at random ones."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from torch import nn

from moco.checkpoint import Found, load_for_evaluation, set_aside
from moco.console import say
from moco.data.folder import anchored
from moco.environment import describe
from moco.errors import UserError
from moco.files import read_json, write_json
from moco.fresh_run import check_free, created
from moco.model.tuned import Tuned
from moco.results import FinetuneResult
from moco.rundir import RunDir
from moco.runs.evaluate import readable
from moco.runs.finetune_options import FinetuneOptions, Tuning, default_name, open_tuning
from moco.runs.going_on import mend_best, to_go_on_from, what_changed
from moco.runs.preparing_tuning import PreparedTuning, prepare_tuning
from moco.runs.trained import Preprocess, build_model, open_run
from moco.views.pipelines import scaling

SOURCES = ("run", "scratch")


def finetune(
    run: str | os.PathLike[str],
    options: FinetuneOptions | None = None,
    source: str = "run",
    data: str | None = None,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    checkpoint: str = "last",
) -> FinetuneResult:
    """Train the run's whole network on labels, and score it on every validation image.

    Args:
        run: the run's path, or the run.
        options: how much, how long, how fast.
        source: `run` begins at its backbone; `scratch` at the same network's random weights.
        data: other labelled data than the run was trained on.
        out: a new directory; default: RUN/finetune-NAME, called by source, labels and draw.
        overwrite: replace the fine-tuning that is there.
        checkpoint: the run's: `last`, `best`, or the number of an epoch whose checkpoint was kept.

    Raises:
        UserError: anything that can't be right, before something is made.
        Interrupted: after a stop signal; everything is saved, and `resume_finetune` goes on.
        TrainingFailed: the loss is no longer finite.
    """
    options = (options or FinetuneOptions()).checked()
    if source not in SOURCES:
        raise UserError(f"--from is {source!r}, valid: {', '.join(SOURCES)}")
    opened_run = open_run(run)
    data = None if data is None else anchored(os.fspath(data))
    place = Path(out) if out is not None else opened_run.path / default_name(source, options)
    check_free(place, overwrite, tuning=True)
    base = opened_run.config
    prepared = prepare_tuning(Tuning(str(opened_run.path.resolve()), checkpoint, source, base, data, options))
    with created(place, overwrite, tuning=True) as folder:
        write_json(folder.finetune_file, prepared.tuning.as_dict())
        write_json(folder.environment_file, {**prepared.about, "command": sys.argv})
        with prepared.loop(folder).telling() as loop:
            loop.train()
        return _conclude(prepared, folder)


def resume_finetune(place: str | os.PathLike[str]) -> FinetuneResult:
    """Go on with the fine-tuning in the directory `place`, to the same bits as if it had never stopped.

    Raises as `finetune` does, and `UserError` for other data than it began with.
    """
    folder, tuning = open_tuning(place)
    with folder.locked():
        found = to_go_on_from(folder)
        prepared = _as_begun(prepare_tuning(tuning), folder, found)
        loop = prepared.loop(folder)
        if found is None:
            say("no checkpoint yet: starting this fine-tuning from its beginning")
        else:
            about = found.content["about"]
            if about["data"] != prepared.about["data"]:
                raise UserError("the data has changed since this fine-tuning began: resume needs the same images")
            if changed := what_changed(about, prepared.about):
                say(f"this fine-tuning began {'; '.join(changed)}: it goes on, but not to the same bits")
            set_aside(found.damaged)
            loop.training.load_state_dict(dict(found.content))
            mend_best(folder, found, loop.training.sampler.steps_per_epoch)
            say(f"resuming at step {loop.training.progress.step} (epoch {loop.training.epoch + 1})")
        with loop.telling():
            loop.train()
        return _conclude(prepared, folder)


def _as_begun(prepared: PreparedTuning, folder: RunDir, found: Found | None) -> PreparedTuning:
    """With the step of the run that the fine-tuning began at: the run may have been trained on since.

    Raises `UserError` where it was, and no checkpoint has the weights of then, and where another run is there now.
    """
    about = read_json(folder.environment_file, "environment") if found is None else found.content["about"]
    if about.get("run") not in (None, prepared.about["run"]):
        raise UserError(f"{prepared.tuning.run} is another run than the one that this fine-tuning began from")
    splits = prepared.tuning.base.model.bn_splits or 1
    if found is not None and about.get("batchnorm") is None and splits > 1:
        say(f"this fine-tuning began with batch-norm over {splits} parts of a batch: it goes on over the whole batch")
    if found is None and prepared.tuning.source == "run" and about["run_step"] != prepared.about["run_step"]:
        raise UserError(
            f"the run was trained on since this fine-tuning began at its step {about['run_step']}, and nothing of the "
            "fine-tuning was saved: begin it again with --overwrite"
        )
    begun = {key: about[key] for key in ("run", "run_step") if key in about}
    return replace(prepared, about={**prepared.about, **begun})


def load_finetuned(
    place: str | os.PathLike[str], checkpoint: str = "last", device: str = "cpu"
) -> tuple[nn.Module, Preprocess, list[str]]:
    """A fine-tuned network, the preprocessing that belongs to it, and the class names; no data set is needed.

    Args:
        place: the directory of the fine-tuning.
        checkpoint: `last` or `best`.
        device: where the module goes.

    Returns:
        the network in evaluation mode, (N, 3, H, W) -> logits (N, classes), float32; its `Preprocess`; the names.

    Raises:
        UserError: there is no such fine-tuning or checkpoint, or it is damaged.
    """
    folder, tuning = open_tuning(place)
    content = load_for_evaluation(folder.checkpoints, checkpoint)
    about, config = content["about"], tuning.base
    classes, width = content["model"]["head.weight"].shape
    model = Tuned(build_model(config).encoder_q.backbone, width, classes)
    model.load_state_dict(content["model"])
    preprocess = Preprocess(config.views.centre_size, config.short_side, about["ranges"], scaling(config.views))
    return model.to(device).eval(), preprocess, about["classes"]


def _conclude(prepared: PreparedTuning, folder: RunDir) -> FinetuneResult:
    """The scores of the last and of the best epoch, written."""
    training, opened = prepared.training, prepared.opened
    done = training.progress
    assert done.best_epoch is not None, "validation is looked at after the last epoch"
    last = best = prepared.scores()
    if done.best_epoch != len(done.rows):
        content = load_for_evaluation(folder.checkpoints, "best")
        weights = {name: tensor.clone() for name, tensor in prepared.model.state_dict().items()}
        prepared.model.load_state_dict(content["model"])
        best = prepared.scores()
        prepared.model.load_state_dict(weights)
    classes = opened.train.labels.cpu().numpy()[prepared.images]
    result = FinetuneResult(
        run=prepared.tuning.run,
        checkpoint=prepared.tuning.which,
        run_step=prepared.about["run_step"],
        source=prepared.tuning.source,
        options=asdict(prepared.tuning.options),
        images=len(prepared.images),
        class_images=np.bincount(classes, minlength=len(opened.train.classes)).tolist(),
        val_images=len(opened.val),
        epochs=prepared.tuning.epochs,
        steps=done.step,
        views_top1=float(done.rows[-1]["views_top1"] or 0.0),
        last=last,
        best=best,
        best_epoch=done.best_epoch,
        data=opened.data,
        data_sha256=opened.data_sha256,
        classes=opened.train.classes,
        class_names=readable(opened.train.classes),
        environment=describe(),
    )
    result.save(folder.result_file)
    say(f"done: {done.step} steps, checkpoints in {folder.checkpoints}")
    return result
