"""Backbone features in evaluation mode: what every evaluator starts from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moco.runtime import Runtime
from moco.views.make import evaluation_view
from moco.views.ragged import Ragged

BATCH = 256


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """`module` in evaluation mode, without gradients; its mode is put back afterwards."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield module
    finally:
        module.train(training)


def features_of(backbone: nn.Module, source: Ragged, size: int, runtime: Runtime, batch_size: int = BATCH) -> Tensor:
    """Features of the centre view of every image, float32 (N, F), on the runtime's device."""
    return extract(backbone, len(source), lambda images: evaluation_view(source, images, size), runtime, batch_size)


def extract(
    backbone: nn.Module,
    count: int,
    view: Callable[[NDArray[np.int64]], Tensor],
    runtime: Runtime,
    batch_size: int = BATCH,
) -> Tensor:
    """Features of `view(images)` for images 0..count-1 in batches, float32 (count, F)."""
    parts = []
    with frozen(backbone), runtime.autocast():
        for start in range(0, count, batch_size):
            images = np.arange(start, min(start + batch_size, count))
            views = view(images).contiguous(memory_format=torch.channels_last)
            parts.append(backbone(views).float())
    return torch.cat(parts)
