"""Linear classification, protocol `sgd`: the literature's, to the letter where the letter is known.

MoCo v1 section 4.1: frozen backbone in evaluation mode, one random resized crop and flip of each image an epoch,
SGD with momentum 0.9, no weight decay, lr 30 for the paper's ResNet-50 on ImageNet with a batch of 256,
100 epochs. The rate falls as a cosine, or by ten at 60 % and 80 % of the epochs, as the paper's does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from moco.console import progress_bar
from moco.errors import UserError
from moco.evaluate.classifier import top1
from moco.evaluate.features import extract, frozen
from moco.evaluate.linear_cached import CROP_SCALE
from moco.evaluate.logistic import fit_logistic
from moco.evaluate.protocol import Proof
from moco.randomness import Purpose, permutation
from moco.runtime import Runtime
from moco.views.make import Source, random_view
from moco.views.pipelines import Pipeline

MOMENTUM = 0.9
STEPS = (0.6, 0.8)  # of the epochs; the paper's 60 and 80 of 100
SAFE_LR = 20.0  # times 1 / mean squared feature length: the default learning rate

Row = dict[str, float | int | None]


@dataclass(frozen=True)
class SgdOptions:
    """How it is done.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
        lr: peak learning rate; None derives it from the features' length (`default_lr`).
        weight_decay: on weight and bias.
        schedule: `cosine` or `step`, both a step per epoch.
        init: `zero`, or `logistic`: the weights of the logistic regression on the centre views.
        seed: of views and order.
    """

    epochs: int = 100
    batch_size: int = 256
    lr: float | None = None
    weight_decay: float = 0.0
    schedule: Literal["cosine", "step"] = "cosine"
    init: Literal["zero", "logistic"] = "zero"
    seed: int = 0


@dataclass(frozen=True)
class Split:
    """Images with labels int64 (N,) and the features float32 (N, F) of their centre views."""

    images: Source
    labels: Tensor
    features: Tensor


@dataclass(frozen=True)
class Sgd:
    """The result after the last epoch: weight float32 (C, F), bias (C,), the peak `lr`, a row per epoch."""

    weight: Tensor
    bias: Tensor
    lr: float
    rows: list[Row]


def linear_sgd(
    backbone: nn.Module,
    train: Split,
    val: Split,
    classes: int,
    size: int,
    options: SgdOptions,
    runtime: Runtime,
    proof: Proof,
    report: Callable[[list[Row]], None],
) -> Sgd:
    """Train on augmented views of `train`; `report` gets the rows so far after each epoch.

    A row: epoch, lr, loss (mean over the epoch's views), seconds (training), and train_top1, val_top1, val_loss
    (centre views, all images, with the weights at the epoch's end). Validation is looked at, never trained on or
    chosen by. Raises `UserError` if the loss is no longer finite.
    """
    weight, bias = _start(train, classes, options.init)
    lr = default_lr(train.features) if options.lr is None else options.lr
    optimizer = torch.optim.SGD([weight, bias], lr=lr, momentum=MOMENTUM, weight_decay=options.weight_decay)
    proof.trains({"weight": weight, "bias": bias})
    rows: list[Row] = []
    with frozen(backbone), progress_bar("images/s") as bar:
        task = bar.add_task("linear classification", total=options.epochs * len(train.labels), rate="")
        for epoch in range(options.epochs):
            began = time.perf_counter()
            rate = lr * schedule_factor(options.schedule, epoch, options.epochs)
            optimizer.param_groups[0]["lr"] = rate
            loss = _epoch(backbone, train, size, epoch, options, runtime, optimizer, lambda n: bar.advance(task, n))
            if not math.isfinite(loss):
                raise UserError(f"the loss is {loss} in epoch {epoch + 1}: lower --lr {lr:.3g}")
            seconds = time.perf_counter() - began
            bar.update(task, rate=f"{len(train.labels) / seconds:,.0f}")
            row: Row = {"epoch": epoch + 1, "lr": rate, "loss": loss, "seconds": seconds}
            rows.append(row | _centre_scores(weight, bias, train, val))
            report(rows)
    return Sgd(weight.detach(), bias.detach(), lr, rows)


def default_lr(features: Tensor) -> float:
    """A learning rate for `features` float32 (N, F) of any length: the larger they are, the smaller it is.

    The curvature of the loss grows with the squared length. The paper's 30 is for features of its ResNet-50.
    """
    squared_length = features.pow(2).sum(1).mean().item()
    return SAFE_LR / max(squared_length, 1e-12)


def schedule_factor(name: str, epoch: int, epochs: int) -> float:
    """What the peak learning rate is multiplied with in `epoch` (from 0)."""
    if name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    return float(0.1 ** sum(epoch >= share * epochs for share in STEPS))


def _start(train: Split, classes: int, init: str) -> tuple[Tensor, Tensor]:
    if init == "logistic":
        fitted = fit_logistic(train.features, train.labels, classes)
        return fitted.weight.clone().requires_grad_(), fitted.bias.clone().requires_grad_()
    weight = train.features.new_zeros(classes, train.features.shape[1])
    return weight.requires_grad_(), train.features.new_zeros(classes).requires_grad_()


@torch.no_grad()
def _centre_scores(weight: Tensor, bias: Tensor, train: Split, val: Split) -> Row:
    logits = F.linear(val.features, weight, bias)
    return {
        "train_top1": top1(F.linear(train.features, weight, bias), train.labels),
        "val_top1": top1(logits, val.labels),
        "val_loss": F.cross_entropy(logits, val.labels).item(),
    }


def _epoch(
    backbone: nn.Module,
    train: Split,
    size: int,
    epoch: int,
    options: SgdOptions,
    runtime: Runtime,
    optimizer: torch.optim.SGD,
    done: Callable[[int], None],
) -> float:
    """One view of every image, in batches of nearly equal size; the mean loss over the images."""
    count = len(train.labels)
    weight, bias = optimizer.param_groups[0]["params"]
    pipeline = Pipeline(size, scale=CROP_SCALE)
    order: NDArray[np.int64] = permutation(count, options.seed, Purpose.PROBE_ORDER, epoch)
    total = torch.zeros((), dtype=torch.float64, device=weight.device)
    for images in np.array_split(order, math.ceil(count / options.batch_size)):

        def view(rows: NDArray[np.int64], images: NDArray[np.int64] = images) -> Tensor:
            return random_view(train.images, images[rows], pipeline, options.seed, epoch, 0, Purpose.PROBE_VIEW)

        features = extract(backbone, len(images), view, runtime, len(images))
        labels = train.labels[torch.from_numpy(images).to(weight.device)]
        with torch.enable_grad():
            loss = F.cross_entropy(F.linear(features, weight, bias), labels)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        total += loss.detach() * len(images)
        done(len(images))
    return total.item() / count
