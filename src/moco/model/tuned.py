"""A backbone with a linear classifier on it, all of which learns."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class Tuned(nn.Module):
    """(N, 3, H, W) -> logits (N, classes).

    The classifier begins at zero, so that the first gradients are those of the features as they are and nothing is
    drawn ("Big Transfer", Kolesnikov et al. 2020, section 3.3).
    """

    def __init__(self, backbone: nn.Module, width: int, classes: int) -> None:
        """`width` is F of the backbone's features (N, F)."""
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(width, classes)
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.backbone(images)))
