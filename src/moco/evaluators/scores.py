"""How well a classifier does on a split: loss, top-1, each class, and what is taken for what. All images count."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.evaluators.classifier import Classifier
from moco.evaluators.frozen import Frozen, Labelled
from moco.results import SplitScores


def classify(frozen: Frozen, classifier: Classifier, split: Labelled, title: str | None = None) -> SplitScores:
    """Score the centre view of every image of `split`, a batch at a time. `title` names the bar to show, if any."""
    return score(classifier.to(split.labels.device), frozen.batches(split.images, title=title), split.labels)


@torch.no_grad()
def score(classifier: Classifier, batches: Iterable[tuple[int, Tensor]], labels: Tensor) -> SplitScores:
    """Score the `batches`, (number of the first, features float32 (n, F)), against `labels` int64 (N,).

    All on the classifier's device.
    """
    classes = len(classifier.classes)
    loss = torch.zeros((), dtype=torch.float64, device=labels.device)
    pairs = torch.empty_like(labels)  # at once: thousands of small pieces would leave holes in the heap
    for first, features in batches:
        logits, true = classifier.logits(features), labels[first : first + len(features)]
        loss += F.cross_entropy(logits, true, reduction="sum")
        torch.add(logits.argmax(1), true, alpha=classes, out=pairs[first : first + len(features)])
    found, counts = pairs.unique(return_counts=True)
    confusion = zip((found // classes).tolist(), (found % classes).tolist(), counts.tolist())
    return SplitScores(len(labels), loss.item() / len(labels), classifier.classes, [*confusion])
