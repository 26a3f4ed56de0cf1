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

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from moco.console import progress
from moco.cosine import cosine
from moco.errors import UserError
from moco.evaluators.classifier import block_rows, top1
from moco.evaluators.features import Features, LabelledFeatures
from moco.evaluators.frozen import Frozen, Labelled
from moco.evaluators.linear_options import SgdOptions
from moco.evaluators.logistic import drawn, fit_logistic
from moco.evaluators.proof import Proof
from moco.randomness import Purpose, permutation
from moco.tables import Row

MOMENTUM = 0.9
STEPS = (0.6, 0.8)  # of the epochs; the paper's 60 and 80 of 100
SAFE_LR = 20.0  # times 1 / mean squared feature length: the default learning rate


@dataclass(frozen=True)
class Sgd:
    """The result after the last epoch: weight float32 (C, F), bias (C,), the peak `lr`, a row per epoch."""

    weight: Tensor
    bias: Tensor
    lr: float
    rows: list[Row]


def linear_sgd(
    frozen: Frozen,
    train: Labelled,
    val: Labelled,
    options: SgdOptions,
    proof: Proof,
    report: Callable[[list[Row]], None],
) -> Sgd:
    """Train on augmented views of `train`; `report` gets the rows so far after each epoch.

    A row: epoch, lr, loss (mean over the epoch's views), seconds (training), and train_top1, val_top1, val_loss
    (centre views, all images, with the weights at the epoch's end). Validation is looked at, never trained on or
    chosen by. Raises `UserError` if the loss is no longer finite.
    """
    centres = [frozen.measured(split, f"features, {name}") for name, split in (("train", train), ("val", val))]
    weight, bias = _start(centres[0], options.init)
    lr = default_lr(centres[0].features) if options.lr is None else options.lr
    optimizer = torch.optim.SGD([weight, bias], lr=lr, momentum=MOMENTUM, weight_decay=options.weight_decay)
    proof.trains({"weight": weight, "bias": bias})
    rows: list[Row] = []
    with progress("linear classification", options.epochs * len(train), "images/s") as bar:
        for epoch in range(options.epochs):
            began = time.perf_counter()
            rate = lr * schedule_factor(options.schedule, epoch, options.epochs)
            optimizer.param_groups[0]["lr"] = rate
            before = epoch * len(train)
            loss = _epoch(frozen, train, epoch, options, optimizer, lambda n, before=before: bar.update(before + n))  # type: ignore[misc]
            if not math.isfinite(loss):
                raise UserError(f"the loss is {loss} in epoch {epoch + 1}: lower --lr {lr:.3g}")
            row: Row = {"epoch": epoch + 1, "lr": rate, "loss": loss, "seconds": time.perf_counter() - began}
            rows.append(row | _centre_scores(weight, bias, *centres))
            report(rows)
    return Sgd(weight.detach(), bias.detach(), lr, rows)


def default_lr(features: Features) -> float:
    """A learning rate for `features` of any length: the larger they are, the smaller it is.

    The curvature of the loss grows with the squared length. The paper's 30 is for features of its ResNet-50.
    """
    rows = len(features) if features.exact else None
    lengths = [block.pow(2).sum(1) for _, block in features.blocks(rows=rows)]
    return SAFE_LR / max(torch.cat(lengths).mean().item(), 1e-12)


def schedule_factor(name: str, epoch: int, epochs: int) -> float:
    """What the peak learning rate is multiplied with in `epoch` (from 0)."""
    if name == "cosine":
        return cosine(epoch / epochs)
    return float(0.1 ** sum(epoch >= share * epochs for share in STEPS))


def _start(train: LabelledFeatures, init: str) -> tuple[Tensor, Tensor]:
    if init == "logistic":
        fitted = fit_logistic(drawn(train))
        return fitted.weight.clone().requires_grad_(), fitted.bias.clone().requires_grad_()
    weight = torch.zeros(len(train.classes), train.features.width, device=train.labels.device)
    return weight.requires_grad_(), torch.zeros(len(train.classes), device=train.labels.device).requires_grad_()


@torch.no_grad()
def _centre_scores(weight: Tensor, bias: Tensor, train: LabelledFeatures, val: LabelledFeatures) -> Row:
    def logits(features: Tensor) -> Tensor:
        return F.linear(features, weight, bias)

    losses = [
        F.cross_entropy(logits(features), val.labels[first : first + len(features)], reduction="none")
        for first, features in val.features.blocks(rows=block_rows(val))
    ]
    return {
        "train_top1": top1(logits, train),
        "val_top1": top1(logits, val),
        "val_loss": torch.cat(losses).mean().item(),
    }


def _epoch(
    frozen: Frozen,
    train: Labelled,
    epoch: int,
    options: SgdOptions,
    optimizer: torch.optim.SGD,
    done: Callable[[int], None],
) -> float:
    """One view of every image, in batches of nearly equal size; the mean loss over the images."""
    count, taken = len(train), 0
    weight, bias = optimizer.param_groups[0]["params"]
    view = frozen.crop(options.seed, epoch)
    order: NDArray[np.int64] = permutation(count, options.seed, Purpose.PROBE_ORDER, epoch)
    total = torch.zeros((), dtype=torch.float64, device=weight.device)
    for images in np.array_split(order, math.ceil(count / options.batch_size)):
        features = frozen.compute(train.images, view, images)
        labels = train.labels[torch.from_numpy(images).to(weight.device)]
        loss = F.cross_entropy(F.linear(features, weight, bias), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(images)
        taken += len(images)
        done(taken)
    return total.item() / count
