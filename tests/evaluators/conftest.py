"""A small world for the evaluators: coloured pictures and a backbone of two layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moco.config import RuntimeConfig
from moco.evaluators.features import Features, LabelledFeatures
from moco.evaluators.frozen import Frozen, Labelled
from moco.runtime import Runtime
from moco.views.ragged import Ragged

COLOURS = ((210, 60, 60), (60, 200, 70), (60, 80, 210))
SIZE_PX = 12


class TinyBackbone(nn.Module):
    """Convolution, batch-norm, dropout, mean: (N, 3, H, W) -> (N, 8). It keeps how many images each batch had."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3)
        with torch.no_grad():
            self.conv.weight.copy_(0.3 * torch.randn(self.conv.weight.shape, generator=generator))
            self.conv.bias.zero_()  # type: ignore[union-attr]
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return self.dropout(self.norm(self.conv(images)).relu().mean((2, 3)))


def labelled_features(features: Tensor, labels: Tensor, classes: int | None = None) -> LabelledFeatures:
    """`features` (N, F) or (V, N, F) with `labels` (N,), as evaluators take them."""
    names = [str(number) for number in range(int(labels.max()) + 1 if classes is None else classes)]
    return LabelledFeatures(Features.of(features), labels, names)


def pictures(count: int, seed: int) -> Labelled:
    """Pictures of as many colours as there are classes, of different sizes, with their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(COLOURS)
    arrays = []
    for label in labels:
        height, width = rng.integers(14, 20, 2)
        noise = rng.integers(-70, 70, (height, width, 3))
        arrays.append((np.array(COLOURS[label]) + noise).clip(0, 255).astype(np.uint8))
    offsets = np.cumsum([0, *[a.size for a in arrays[:-1]]]).astype(np.int64)
    sizes = np.array([a.shape[:2] for a in arrays], np.int32)
    pixels = torch.from_numpy(np.concatenate([a.ravel() for a in arrays]))
    images = Ragged(pixels, offsets, sizes[:, 0].copy(), sizes[:, 1].copy())
    return Labelled(images, torch.from_numpy(labels), ["red", "green", "blue"])


@pytest.fixture
def runtime() -> Runtime:
    return Runtime(RuntimeConfig(device="cpu", precision="float32"))


@pytest.fixture
def backbone() -> TinyBackbone:
    return TinyBackbone().requires_grad_(False).eval()  # type: ignore[return-value]


@pytest.fixture
def frozen(backbone: TinyBackbone, runtime: Runtime) -> Frozen:
    return Frozen(backbone, SIZE_PX, runtime)


@pytest.fixture
def train() -> Labelled:
    return pictures(50, 0)


@pytest.fixture
def val() -> Labelled:
    return pictures(23, 1)
