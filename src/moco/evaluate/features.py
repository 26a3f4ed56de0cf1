"""Backbone features in evaluation mode: what every evaluator starts from."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moco.console import progress_bar
from moco.runtime import Runtime
from moco.views.make import Source, evaluation_view

BATCH = 256
CHUNK = 32  # images that a thread of the CPU takes at a time: each holds the activations of so many
MakeView = Callable[[NDArray[np.int64]], Tensor]


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """`module` in evaluation mode, without gradients; the mode of each of its parts is put back afterwards."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.no_grad():
            yield module
    finally:
        for part in training:
            part.training = True


def features_of(
    backbone: nn.Module,
    source: Source,
    size: int,
    runtime: Runtime,
    batch_size: int = BATCH,
    progress: str | None = None,
) -> Tensor:
    """Features of the centre view of every image, float32 (N, F), on the runtime's device."""

    def view(images: NDArray[np.int64]) -> Tensor:
        return evaluation_view(source, images, size)

    return extract(backbone, len(source), view, runtime, batch_size, progress)


def extract(
    backbone: nn.Module,
    count: int,
    view: MakeView,
    runtime: Runtime,
    batch_size: int = BATCH,
    progress: str | None = None,
) -> Tensor:
    """Features of `view(images)` for images 0..count-1 in batches, float32 (count, F).

    The last batch may be smaller. On the CPU a batch has `CHUNK` images at most, and each thread takes one at a time:
    the same bits for any number of threads. `progress` names the bar to show; without it nothing is shown.
    """
    size = batch_size if runtime.device.type == "cuda" else min(batch_size, CHUNK)

    def some(start: int) -> Tensor:
        with torch.no_grad(), runtime.autocast():
            views = view(np.arange(start, min(start + size, count)))
            return backbone(views.contiguous(memory_format=torch.channels_last)).float()

    with frozen(backbone), _shown(progress, count) as show:
        return torch.cat(runtime.workers.map(some, range(0, count, size), lambda done: show(min(done * size, count))))


@contextlib.contextmanager
def _shown(name: str | None, count: int) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of images done: it moves the bar called `name`, if there is one."""
    if name is None:
        yield lambda done: None
        return
    began = time.perf_counter()
    with progress_bar("images/s") as bar:
        task = bar.add_task(name, total=count, rate="")
        yield lambda done: bar.update(task, completed=done, rate=f"{done / (time.perf_counter() - began):,.0f}")
