"""The linear classifier: two tensors and the class names, as `runs/a/linear/classifier.pt` holds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.checkpoint import read_verified
from moco.evaluators.features import BLOCK_VALUES, LabelledFeatures
from moco.files import atomic

FORMAT = 1


@dataclass(frozen=True)
class Classifier:
    """Logits are `features @ weight.T + bias`, on the features as the backbone gives them.

    Attributes:
        weight: float32 (C, F).
        bias: float32 (C,).
        classes: the C class names, as the data's folders are called.
        about: where it comes from: `protocol`, `checkpoint`, `step`, `epoch`, `backbone_sha256`.
    """

    weight: Tensor
    bias: Tensor
    classes: list[str]
    about: dict[str, Any]

    def logits(self, features: Tensor) -> Tensor:
        """float32 (N, C) from `features` float32 (N, F) on the same device."""
        return F.linear(features, self.weight, self.bias)

    def to(self, device: torch.device) -> Classifier:
        """The same classifier on `device`."""
        return Classifier(self.weight.to(device), self.bias.to(device), self.classes, self.about)

    def save(self, path: Path) -> None:
        """Write it, whole or not at all; `torch.load(path, weights_only=True)` reads it."""
        with atomic(path) as file:
            torch.save(
                {
                    "format": FORMAT,
                    "weight": self.weight.detach().float().cpu().contiguous(),
                    "bias": self.bias.detach().float().cpu().contiguous(),
                    "classes": self.classes,
                    "about": self.about,
                },
                file,
            )

    @classmethod
    def load(cls, path: Path) -> Classifier:
        """Read it onto the CPU, running no code from it. Raises `UserError` if it is damaged."""
        content = read_verified(path, "classifier", FORMAT)
        return cls(content["weight"], content["bias"], content["classes"], content["about"])


def top1(logits: Callable[[Tensor], Tensor], split: LabelledFeatures, view: int = 0) -> float:
    """Share of all images of `split` whose largest of `logits(features)` (n, C) is at their label, from 0 to 1."""
    right = torch.zeros((), dtype=torch.int64, device=split.labels.device)
    for first, features in split.features.blocks(view, block_rows(split)):
        right += (logits(features).argmax(1) == split.labels[first : first + len(features)]).sum()
    return right.item() / len(split)


def block_rows(split: LabelledFeatures) -> int:
    """How many images of `split` at once, so that neither their features nor their logits fill the memory."""
    return max(1, BLOCK_VALUES // max(len(split.classes), split.features.width))
