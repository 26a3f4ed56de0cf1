"""Logistic regression where labels are few: its weight decay chosen on those labels alone, in a second or less.

The objective is the mean cross-entropy + weight_decay / 2 |W|^2, the bias not penalised, on features that are centred
and divided by one number so that their mean squared length is 1: a weight decay then means the same for 10 features and
for 3,072. Which one it is, cross-validation on the labelled images decides; validation is never looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moco.evaluators.draws import folds
from moco.evaluators.features import BLOCK_VALUES, LabelledFeatures
from moco.evaluators.logistic import Logistic

WEIGHT_DECAYS = tuple(10 ** (-exponent / 2) for exponent in range(3, 15))  # 0.03 to 1e-7, strong to weak
WITHOUT_CHOICE = 1e-3  # where a class has one label: nothing can be held out
MOST_FOLDS = 5
ENOUGH_HELD_OUT = 500  # images: folds beyond those that hold out so many are not tried
_ROUGH, _EXACT = (1e-3, 40), (1e-5, 300)  # (largest gradient left, iterations at most): to choose, and to report
_CURVATURE = 0.25  # of the cross-entropy along a logit, at most
_RANK = 1e-6  # of the largest variance; directions below it hold rounding errors alone


@dataclass(frozen=True)
class Fitted:
    """A regression and the weight decay that was chosen for it."""

    logistic: Logistic
    weight_decay: float


def fit_few(train: LabelledFeatures, seed: int) -> Fitted:
    """Fit the first view's features of `train`, with the weight decay that its own folds ask for."""
    x, centre, length = _scaled(train)
    weight_decay = choose_weight_decay(x, train.labels, len(train.classes), seed)
    [(weight, bias)] = _path(x, train.labels, len(train.classes), (weight_decay,), *_EXACT)
    weight = weight / length
    return Fitted(Logistic(weight, bias - weight @ centre), weight_decay)


def choose_weight_decay(x: Tensor, labels: Tensor, classes: int, seed: int) -> float:
    """The one of `WEIGHT_DECAYS` with the lowest cross-entropy on held-out folds of `x` (n, F), scaled as above.

    A class of one image can't be held out and learnt from: then it is `WITHOUT_CHOICE`.
    """
    there = torch.bincount(labels, minlength=classes)
    count = min(MOST_FOLDS, int(there[there > 0].min()))
    if count < 2:
        return WITHOUT_CHOICE
    fold = torch.from_numpy(folds(labels.cpu().numpy(), count, seed)).to(labels.device)
    tried = min(count, math.ceil(ENOUGH_HELD_OUT * count / len(labels)))
    losses = np.full((tried, len(WEIGHT_DECAYS)), math.inf)
    for number in range(tried):
        kept, held_out = fold != number, fold == number
        fits = _path(x[kept], labels[kept], classes, WEIGHT_DECAYS, *_ROUGH)
        for place, (weight, bias) in enumerate(fits):
            loss = F.cross_entropy(F.linear(x[held_out], weight, bias), labels[held_out], reduction="sum")
            losses[number, place] = loss.item()
            if place >= 2 and losses[number, place] > losses[number, place - 1] > losses[number, place - 2]:
                losses[number, place + 1 :] = losses[number, place]  # it only gets worse: over-fitted
                break
    return WEIGHT_DECAYS[int(losses.sum(0).argmin())]


def _scaled(train: LabelledFeatures) -> tuple[Tensor, Tensor, Tensor]:
    """(x (n, F) = (features - centre) / length, centre (F,), length ()): mean squared length of the rows 1."""
    features = train.features.rows(torch.arange(len(train)))
    centre = features.mean(0)
    x = features - centre
    length = x.pow(2).sum(1).mean().sqrt().clamp(min=1e-12)
    return x / length, centre, length


def _path(
    x: Tensor, labels: Tensor, classes: int, weight_decays: tuple[float, ...], tolerance: float, iterations: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(weight (classes, F), bias (classes,)) for each weight decay, each begun at the one before.

    L-BFGS in the basis of the features' principal axes, each stretched by the curvature that it has: the same problem,
    solved in a few dozen iterations instead of hundreds.
    """
    axes, variance = _principal_axes(x)
    z = x @ axes  # (n, R)
    weight, bias = z.new_zeros(classes, z.shape[1]), z.new_zeros(classes)
    for decay in weight_decays:
        stretch = (_CURVATURE * variance + decay).rsqrt()
        weight, bias = _solved(
            z * stretch, labels, decay * stretch.pow(2), weight / stretch, bias, tolerance, iterations
        )
        weight = weight * stretch
        yield weight @ axes.T, bias


def _solved(
    z: Tensor, labels: Tensor, penalty: Tensor, weight: Tensor, bias: Tensor, tolerance: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """The minimum of cross-entropy + sum(`penalty` (R,) W^2) / 2, from `weight` (classes, R) and `bias` on."""
    weight, bias = weight.detach().requires_grad_(), bias.detach().clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=iterations, tolerance_grad=tolerance, tolerance_change=1e-9,
        history_size=10, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(F.linear(z, weight, bias), labels) + (penalty * weight.pow(2)).sum() / 2
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(closure)
    return weight.detach(), bias.detach()


def _principal_axes(x: Tensor) -> tuple[Tensor, Tensor]:
    """(axes (F, R), variance (R,)) of `x` (n, F); along all other directions every row is zero."""
    n, width = x.shape
    if n < width:  # the same axes from the smaller of the two matrices of products
        values, vectors = torch.linalg.eigh(x.double() @ x.double().T / n)
        kept = values > _RANK * values[-1]
        axes = x.double().T @ vectors[:, kept] / (n * values[kept]).sqrt()
    else:
        products = torch.zeros(width, width, dtype=torch.float64, device=x.device)
        for part in x.split(max(1, BLOCK_VALUES // width)):
            products += part.double().T @ part.double()
        values, vectors = torch.linalg.eigh(products / n)
        kept = values > _RANK * values[-1]
        axes = vectors[:, kept]
    return axes.to(x.dtype), values[kept].to(x.dtype)
