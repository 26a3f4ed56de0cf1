"""The projection head: linear in v1, an MLP in v2."""

from __future__ import annotations

from torch import nn


def projection_head(features: int, dim: int, mlp: bool) -> nn.Module:
    """(N, features) -> (N, dim): one layer (v1), or two with a ReLU between (v2 section 2, as in SimCLR)."""
    if not mlp:
        return nn.Linear(features, dim)
    return nn.Sequential(nn.Linear(features, features), nn.ReLU(inplace=True), nn.Linear(features, dim))
