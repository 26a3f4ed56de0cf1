"""What a fine-tuning is made of, before anything of it is written: network, order, views, step, monitors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from moco.config import Config, ViewsConfig
from moco.console import say
from moco.environment import describe
from moco.errors import UserError
from moco.evaluators.classifier import Classifier
from moco.evaluators.draws import Amount, draw
from moco.evaluators.frozen import Frozen
from moco.evaluators.scores import classify
from moco.model.backbone import feature_dim
from moco.model.batchnorm import join_batchnorm
from moco.model.small_maps import suit_processor
from moco.model.tuned import Tuned
from moco.randomness import Purpose, torch_seed
from moco.results import SplitScores
from moco.rundir import RunDir
from moco.runs.finetune_options import Tuning
from moco.runs.splits import Opened, open_splits
from moco.runs.trained import build_model
from moco.train.arithmetic import at_once
from moco.train.guard import FiniteGuard
from moco.train.loop import Loop, Monitors
from moco.train.optimizer import build_optimizer
from moco.train.state import Totals
from moco.train.training import Training
from moco.train.tuning import TUNING, LabelledOrder, LabelledViews, TuneStats, TuneStep, class_weights
from moco.views.pipelines import pipeline


@dataclass(frozen=True)
class PreparedTuning:
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


def prepare_tuning(tuning: Tuning) -> PreparedTuning:
    """All that a fine-tuning needs, at step 0. Raises `UserError` for what can't be trained; writes nothing."""
    opened = open_splits(tuning.run, tuning.which, tuning.data)
    frozen, train = opened.frozen, opened.train
    runtime, device = frozen.runtime, frozen.runtime.device
    classes = train.labels.cpu().numpy()
    asked = tuning.options
    amount = Amount.parse(asked.labels)
    images = draw(classes, amount, asked.seed, asked.draw)
    counts = np.bincount(classes)
    if lacking := amount.lacking(counts):
        say(f"--labels {asked.labels}: classes with fewer images give all they have ({lacking} of {len(counts)})")
    if len(images) < 2:
        raise UserError(f"--labels {asked.labels} are {len(images)} images here, give 2 or more")
    tuning = replace(
        tuning, options=asked.decided(tuning.source, len(images), tuning.base.views.centre_cost * len(opened.val))
    )
    options = tuning.options
    model = _model(tuning, opened).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if runtime.device.type == "cpu":
        suit_processor(model, runtime.float32_on_cpu)
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
        **describe(), **runtime.about,
        "arithmetic": at_once(model, runtime),
        "data": opened.data_sha256, "batchnorm": "whole batch", "run": run_identity(tuning), "run_step": opened.step,
        "ranges": opened.ranges, "classes": train.classes,
    }  # fmt: skip
    say(
        f"{len(images):,} of {len(train):,} training images, {tuning.epochs} epochs of "
        f"{training.sampler.steps_per_epoch} steps, {options.optimizer} {options.lr:g}, classifier {options.head_lr:g}"
    )
    return PreparedTuning(tuning, opened, model, images, training, monitors, about)


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


def initial_backbone(config: Config, seed: int) -> nn.Module:
    """The backbone as a run of `config` with this seed begins: random weights, in evaluation mode, on the CPU."""
    torch.manual_seed(torch_seed(seed, Purpose.INIT))
    return build_model(config).encoder_q.backbone.eval()


def run_identity(tuning: Tuning) -> str | None:
    """The number of the run that it begins from: another run may come to lie in the same place."""
    return RunDir(Path(tuning.run)).identity()
