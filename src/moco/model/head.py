"""What stands behind the backbone in pre-training only: the projection head, and the predictor of the queries."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from moco.model.batchnorm import split_batchnorm


@dataclass(frozen=True)
class Head:
    """A projection head.

    Attributes:
        layers: linear layers, a ReLU between two of them: v1 has one, v2 two.
        width: between the layers; default the backbone's.
        batchnorm: behind each layer but the last (MoCo v3, SimCLR v2).
    """

    layers: int = 2
    width: int | None = None
    batchnorm: bool = False


def projection_head(features: int, dim: int, head: Head) -> nn.Module:
    """(N, features) -> (N, dim): one layer (v1), or several with a ReLU between (v2 section 2, as in SimCLR)."""
    if head.layers == 1:
        return nn.Linear(features, dim)
    modules: list[tuple[str, nn.Module]] = []
    incoming = features
    for layer in range(head.layers - 1):
        width = head.width or features
        modules.append((str(2 * layer), nn.Linear(incoming, width, bias=not head.batchnorm)))
        if head.batchnorm:
            modules.append((f"{2 * layer}_bn", nn.BatchNorm1d(width)))
        modules.append((str(2 * layer + 1), nn.ReLU(inplace=True)))
        incoming = width
    modules.append((str(2 * head.layers - 2), nn.Linear(incoming, dim)))
    return nn.Sequential(OrderedDict(modules))  # without batch-norm the names are the reference's: 0, 2


def prediction_head(dim: int, width: int, bn_splits: int = 1) -> nn.Module:
    """(N, dim) -> (N, dim): two layers with batch-norm between, as in BYOL (arXiv:2006.07733, section 3.3)."""
    layers = nn.Sequential(
        nn.Linear(dim, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True), nn.Linear(width, dim)
    )
    return split_batchnorm(layers, bn_splits) if bn_splits > 1 else layers
