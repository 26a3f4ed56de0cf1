"""The evaluators by name: what a backbone's features are worth, in training and on a checkpoint.

A new one is a function of the two splits' features and the options, and a line in `EVALUATORS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from moco.config import MonitorConfig
from moco.console import say
from moco.errors import UserError, nearest
from moco.evaluators.classifier import top1
from moco.evaluators.features import LabelledFeatures
from moco.evaluators.frozen import Frozen, Labelled
from moco.evaluators.knn import knn_top1
from moco.evaluators.logistic import MOST_IMAGES, drawn, fit_logistic
from moco.evaluators.sample import sample

THUMBNAIL = 32  # px; the side at which raw pixels are compared
BASELINE_IMAGES = 50_000  # of the training split, in the bank of the baseline's kNN


@dataclass(frozen=True)
class Measured:
    """The features of both splits' centre views."""

    train: LabelledFeatures
    val: LabelledFeatures


Evaluator = Callable[[Measured, MonitorConfig], Iterable[tuple[str, float]]]  # yields (column, value)


def knn(measured: Measured, options: MonitorConfig) -> Iterable[tuple[str, float]]:
    """Validation images classified by their nearest training images, all of them."""
    yield "knn_top1", knn_top1(measured.train, measured.val, options.knn_k, options.knn_temperature)


def logistic(measured: Measured, options: MonitorConfig) -> Iterable[tuple[str, float]]:
    """Logistic regression, fitted on at most `MOST_IMAGES` training images and scored on them and on validation."""
    train = drawn(measured.train)
    fitted = fit_logistic(train)
    yield "logistic_train_top1", top1(fitted.logits, train)
    yield "logistic_val_top1", top1(fitted.logits, measured.val)


# By name. One whose name is a field of `MonitorConfig` can be switched off there.
EVALUATORS: dict[str, Evaluator] = {"knn": knn, "logistic": logistic}


def chosen(options: MonitorConfig) -> list[str]:
    """The names of the evaluators that `options` leave on."""
    return [name for name in EVALUATORS if getattr(options, name, True)]


def evaluate_features(measured: Measured, options: MonitorConfig, names: Sequence[str]) -> dict[str, float]:
    """What the evaluators called `names` say, by column. Raises `UserError` for a name that there is none of."""
    unknown = [f"unknown evaluator {name!r}: {nearest(name, EVALUATORS)}" for name in names if name not in EVALUATORS]
    if unknown:
        raise UserError("; ".join(unknown))
    found: dict[str, float] = {}
    for name in names:
        found.update(EVALUATORS[name](measured, options))
    return found


@dataclass(frozen=True)
class LabelMonitor:
    """The evaluators on the backbone as it is when asked, with the labels of `train` and `val`."""

    frozen: Frozen
    train: Labelled
    val: Labelled
    options: MonitorConfig

    def __post_init__(self) -> None:
        for sentence in self.limits():
            say(sentence)

    def __call__(self) -> Iterable[tuple[str, float]]:
        """The monitor's columns."""
        names = chosen(self.options)
        if names:
            yield from evaluate_features(self.measured(), self.options, names).items()

    def limits(self) -> list[str]:
        """A sentence for each figure that is not of all images."""
        said, count = [], len(self.train)
        if self.options.logistic and count > MOST_IMAGES:
            said.append(f"the logistic regression takes {MOST_IMAGES:,} of {count:,} training images, always the same")
        if self.options.baseline and count > BASELINE_IMAGES:
            said.append(f"the baseline's kNN takes {BASELINE_IMAGES:,} of {count:,} training images, always the same")
        return said

    def measured(self) -> Measured:
        """Features of both splits with the backbone as it is now."""
        return Measured(self.frozen.measured(self.train), self.frozen.measured(self.val))

    def baseline(self, name: str = "random_backbone_knn_top1") -> dict[str, float]:
        """What kNN reaches without learning: on raw thumbnails, and, by `name`, on the backbone as it starts."""
        pixels = replace(self.frozen, backbone=nn.Flatten(), size=min(THUMBNAIL, self.frozen.size))
        bank = self._bank(pixels)
        return {
            "raw_pixels_knn_top1": self._knn(bank, pixels, bank.features.values[0].mean(0)),
            name: self._knn(self._bank(self.frozen), self.frozen),
        }

    def _bank(self, frozen: Frozen) -> LabelledFeatures:
        images = sample(len(self.train), BASELINE_IMAGES)
        labels = self.train.labels[torch.from_numpy(images).to(self.train.labels.device)]
        return LabelledFeatures(frozen.features(self.train.images, images=images), labels, self.train.classes)

    def _knn(self, bank: LabelledFeatures, frozen: Frozen, centre: Tensor | None = None) -> float:
        options = self.options
        return knn_top1(bank, frozen.measured(self.val), options.knn_k, options.knn_temperature, centre)
