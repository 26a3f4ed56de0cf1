"""The linear classifier: two tensors and the class names, as `runs/a/linear/classifier.pt` holds them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.checkpoint import read_verified
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


def top1(logits: Tensor, labels: Tensor) -> float:
    """Share of rows of `logits` (N, C) whose largest is at `labels` int64 (N,), from 0 to 1."""
    return (logits.argmax(1) == labels).float().mean().item()
