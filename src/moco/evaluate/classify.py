"""How well a classifier does on a split: loss, top-1, each class, and what is taken for what. All images count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.evaluate.classifier import Classifier
from moco.evaluate.features import features_of
from moco.runtime import Runtime
from moco.views.make import Source


@dataclass(frozen=True)
class Scores:
    """The result on one split.

    Attributes:
        images: how many were scored: all of them.
        loss: mean cross-entropy, in nats.
        confusion: int64 (C, C) on the CPU, images by true class (row) and predicted class (column).
    """

    images: int
    loss: float
    confusion: Tensor

    @property
    def correct(self) -> int:
        """Images classified as what they are."""
        return int(self.confusion.diagonal().sum())

    @property
    def top1(self) -> float:
        """Share of the images classified as what they are, from 0 to 1."""
        return self.correct / self.images

    @property
    def class_images(self) -> list[int]:
        """Images of each class."""
        return [int(n) for n in self.confusion.sum(1)]

    @property
    def class_top1(self) -> list[float | None]:
        """top-1 within each class; None for a class without images."""
        right = self.confusion.diagonal().tolist()
        return [r / n if n else None for r, n in zip(right, self.class_images)]


def classify(
    backbone: nn.Module,
    classifier: Classifier,
    source: Source,
    labels: Tensor,
    size: int,
    runtime: Runtime,
    progress: str | None = None,
) -> Scores:
    """Score the centre view of every image of `source` at `size` pixels; `labels` int64 (N,).

    The last batch may be smaller; no image is left out. `progress` names the bar to show, if any.
    """
    features = features_of(backbone, source, size, runtime, progress=progress)
    return score(classifier.to(features.device), features, labels)


@torch.no_grad()
def score(classifier: Classifier, features: Tensor, labels: Tensor) -> Scores:
    """Score `features` float32 (N, F) against `labels` int64 (N,), on the classifier's device."""
    assert len(features) == len(labels) > 0, "a split without images can't be scored"
    logits = classifier.logits(features)
    classes = len(classifier.classes)
    pairs = labels * classes + logits.argmax(1)
    confusion = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    return Scores(len(labels), F.cross_entropy(logits, labels).item(), confusion.cpu())
