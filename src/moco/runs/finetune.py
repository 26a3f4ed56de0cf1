"""Fine-tuning: the whole network learns from labels, beginning at a run's weights or, to compare, at random ones."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from moco import checkpoint
from moco.config import Config, ViewsConfig
from moco.console import say
from moco.environment import describe
from moco.errors import UserError
from moco.evaluators.classifier import Classifier
from moco.evaluators.draws import Amount, draw
from moco.evaluators.frozen import Frozen
from moco.evaluators.scores import classify
from moco.files import read_json, write_json
from moco.model.backbone import feature_dim
from moco.model.batchnorm import join_batchnorm
from moco.model.small_maps import multiply_small_maps
from moco.model.tuned import Tuned
from moco.randomness import Purpose, torch_seed
from moco.results import FinetuneResult, SplitScores
from moco.rundir import RunDir
from moco.runs.evaluate import readable
from moco.runs.finetune_options import FinetuneOptions, Tuning, default_name, open_tuning
from moco.runs.going_on import mend_best, to_go_on_from, what_changed
from moco.runs.splits import Opened, open_splits
from moco.runs.trained import Preprocess, build_model, open_run
from moco.train.guard import FiniteGuard
from moco.train.loop import Loop, Monitors
from moco.train.optimizer import build_optimizer
from moco.train.parts import at_once
from moco.train.state import Totals
from moco.train.training import Training
from moco.train.tuning import TUNING, LabelledOrder, LabelledViews, TuneStats, TuneStep, class_weights
from moco.views.pipelines import pipeline, scaling

SOURCES = ("run", "scratch")


@dataclass(frozen=True)
class _Prepared:
    """A fine-tuning at its first step, with all but its directory."""

    tuning: Tuning
    opened: Opened
    model: Tuned
    images: NDArray[np.int64]
    training: Training[Tuning]
    monitors: Monitors
    about: dict[str, Any]

    def loop(self, folder: RunDir) -> Loop:
        return Loop(folder, self.training, self.opened.frozen.runtime, self.monitors, self.about)

    def scores(self) -> SplitScores:
        """Of the model as it is, on all validation images."""
        return _scores(self.model, self.opened)


def finetune(
    run: str | os.PathLike[str],
    options: FinetuneOptions | None = None,
    source: str = "run",
    data: str | None = None,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    which: str = "last",
) -> FinetuneResult:
    """Train the run's whole network on labels, and score it on every validation image.

    Args:
        run: the run's path, or the run.
        options: how much, how long, how fast.
        source: `run` begins at its backbone; `scratch` at the same network's random weights.
        data: other labelled data than the run was trained on.
        out: a new directory; default: RUN/finetune-NAME, called by source, labels and draw.
        overwrite: replace the fine-tuning that is there.
        which: the run's checkpoint: `last`, `best`, or the number of an epoch whose checkpoint was kept.

    Raises:
        UserError: anything that can't be right, before something is made.
        Interrupted: after a stop signal; everything is saved, and `resume_finetune` goes on.
        TrainingFailed: the loss is no longer finite.
    """
    options = (options or FinetuneOptions()).checked()
    if source not in SOURCES:
        raise UserError(f"--from is {source!r}, valid: {', '.join(SOURCES)}")
    opened_run = open_run(run)
    place = Path(out) if out is not None else opened_run.path / default_name(source, options)
    RunDir.check_free(place, overwrite, tuning=True)
    base = opened_run.config
    prepared = _prepare(Tuning(str(opened_run.path.resolve()), which, source, base, data, options))
    with RunDir.created(place, overwrite, tuning=True) as folder:
        write_json(folder.finetune_file, prepared.tuning.as_dict())
        write_json(folder.environment_file, {**prepared.about, "command": sys.argv})
        prepared.loop(folder).train()
        return _conclude(prepared, folder)


def resume_finetune(place: str | os.PathLike[str]) -> FinetuneResult:
    """Go on with the fine-tuning in the directory `place`, to the same bits as if it had never stopped.

    Raises as `finetune` does, and `UserError` for other data than it began with.
    """
    folder, tuning = open_tuning(place)
    with folder.locked():
        found = to_go_on_from(folder)
        prepared = _as_begun(_prepare(tuning), folder, found)
        loop = prepared.loop(folder)
        if found is None:
            say("no checkpoint yet: starting this fine-tuning from its beginning")
        else:
            about = found.content["about"]
            if about["data"] != prepared.about["data"]:
                raise UserError("the data has changed since this fine-tuning began: resume needs the same images")
            if changed := what_changed(about, prepared.about):
                say(f"this fine-tuning began {'; '.join(changed)}: it goes on, but not to the same bits")
            checkpoint.set_aside(found.damaged)
            loop.training.load_state_dict(dict(found.content))
            mend_best(folder, found, loop.training.sampler.steps_per_epoch)
            say(f"resuming at step {loop.training.progress.step} (epoch {loop.training.epoch + 1})")
        loop.train()
        return _conclude(prepared, folder)


def run_identity(tuning: Tuning) -> str | None:
    """The number of the run that it begins from: another run may come to lie in the same place."""
    return RunDir(Path(tuning.run)).identity()


def _as_begun(prepared: _Prepared, folder: RunDir, found: checkpoint.Found | None) -> _Prepared:
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
    place: str | os.PathLike[str], which: str = "last", device: str = "cpu"
) -> tuple[nn.Module, Preprocess, list[str]]:
    """A fine-tuned network, the preprocessing that belongs to it, and the class names; no data set is needed.

    Args:
        place: the directory of the fine-tuning.
        which: `last` or `best`.
        device: where the module goes.

    Returns:
        the network in evaluation mode, (N, 3, H, W) -> logits (N, classes), float32; its `Preprocess`; the names.

    Raises:
        UserError: there is no such fine-tuning or checkpoint, or it is damaged.
    """
    folder, tuning = open_tuning(place)
    content = checkpoint.load_for_evaluation(folder.checkpoints, which)
    about, config = content["about"], tuning.base
    classes, width = content["model"]["head.weight"].shape
    model = Tuned(build_model(config).encoder_q.backbone, width, classes)
    model.load_state_dict(content["model"])
    preprocess = Preprocess(config.views.centre_size, config.short_side, about["ranges"], scaling(config.views))
    return model.to(device).eval(), preprocess, about["classes"]


def initial_backbone(config: Config, seed: int) -> nn.Module:
    """The backbone as a run of `config` with this seed begins: random weights, in evaluation mode, on the CPU."""
    torch.manual_seed(torch_seed(seed, Purpose.INIT))
    return build_model(config).encoder_q.backbone.eval()


def _prepare(tuning: Tuning) -> _Prepared:
    opened = open_splits(tuning.run, tuning.which, tuning.data)
    frozen, train = opened.frozen, opened.train
    runtime, device = frozen.runtime, frozen.runtime.device
    classes = train.labels.cpu().numpy()
    asked = tuning.options
    images = draw(classes, Amount.parse(asked.labels), asked.seed, asked.draw)
    if len(images) < 2:
        raise UserError(f"--labels {asked.labels} are {len(images)} images here, give 2 or more")
    tuning = replace(
        tuning, options=asked.decided(tuning.source, len(images), tuning.base.views.centre_cost * len(opened.val))
    )
    options = tuning.options
    model = _model(tuning, opened).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if runtime.float32_on_cpu:
        multiply_small_maps(model)
    optimizer = build_optimizer(model.backbone, tuning.optimizer, runtime.workers)
    scale = tuning.head_scale
    head = {"params": list(model.head.parameters()), "lr": tuning.optimizer.lr * scale, "lr_scale": scale}
    optimizer.add_param_group({**head, "weight_decay": options.weight_decay})
    weights = None
    if options.balance == "loss":
        weights = torch.from_numpy(class_weights(classes[images], len(train.classes))).to(device)
    guard = FiniteGuard(optimizer, device)
    training = Training(
        config=tuning,
        model=model,
        optimizer=optimizer,
        sampler=LabelledOrder(
            images, classes[images], len(train), options.batch_size, options.seed, options.balance == "sampling"
        ),
        views=LabelledViews(train.images, pipeline(_views(tuning)), options.seed, runtime.workers),
        train_step=TuneStep(model, optimizer, runtime, guard, train.labels, options.seed, weights),
        guard=guard,
        totals=Totals(device, TuneStats),
    )

    def validation() -> Iterable[tuple[str, float]]:
        scores = _scores(model, opened)
        return [("val_top1", scores.top1), ("val_loss", scores.loss)]

    monitors = Monitors([validation], options.every_epochs or 1, best_by="val_top1", account=TUNING)
    about = {
        **describe(), "precision": runtime.precision, "reason": runtime.reason, "threads": runtime.threads,
        "arithmetic": at_once(model, runtime),
        "data": opened.data_sha256, "batchnorm": "whole batch", "run": run_identity(tuning), "run_step": opened.step,
        "ranges": opened.ranges, "classes": train.classes,
    }  # fmt: skip
    say(
        f"{len(images):,} of {len(train):,} training images, {tuning.epochs} epochs of "
        f"{training.sampler.steps_per_epoch} steps, {options.optimizer} {options.lr:g}, classifier {options.head_lr:g}"
    )
    return _Prepared(tuning, opened, model, images, training, monitors, about)


def _model(tuning: Tuning, opened: Opened) -> Tuned:
    """The network at its beginning, with a new classifier, in training mode."""
    config = tuning.base
    scratch = tuning.source == "scratch"
    backbone = join_batchnorm(initial_backbone(config, tuning.options.seed) if scratch else opened.frozen.backbone)
    width = feature_dim(backbone, config.views.size)
    return Tuned(backbone.requires_grad_(True), width, len(opened.train.classes)).train()


def _views(tuning: Tuning) -> ViewsConfig:
    """A crop and a flip, as in supervised training, at the run's size and on its scale."""
    own = tuning.base.views
    small = tuning.options.scale_min
    return ViewsConfig("crop_flip", own.size, small, flip_p=own.flip_p, mean=own.mean, std=own.std)


def _scores(model: Tuned, opened: Opened) -> SplitScores:
    frozen: Frozen = replace(opened.frozen, backbone=model.backbone)
    head = Classifier(model.head.weight.detach(), model.head.bias.detach(), opened.val.classes, {})
    return classify(frozen, head, opened.val, "validation")


def _conclude(prepared: _Prepared, folder: RunDir) -> FinetuneResult:
    """The scores of the last and of the best epoch, written."""
    training, opened = prepared.training, prepared.opened
    done = training.progress
    assert done.best_epoch is not None, "validation is looked at after the last epoch"
    last = best = prepared.scores()
    if done.best_epoch != len(done.rows):
        content = checkpoint.load_for_evaluation(folder.checkpoints, "best")
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
