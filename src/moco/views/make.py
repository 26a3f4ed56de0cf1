"""Views of a batch: draw, then apply on whatever device the pixels are on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco.randomness import Purpose
from moco.threads import Threads
from moco.views import cpu, cuda, reference
from moco.views.parameters import Parameters, centre, draw
from moco.views.pipelines import IMAGENET, Pipeline, Scaling
from moco.views.source import Source

CHUNK = 16  # views that a thread makes at a time
ALONE = Threads(1)


def random_view(
    source: Source,
    images: NDArray[np.int64],
    pipeline: Pipeline,
    seed: int,
    epoch: int,
    view: int,
    purpose: Purpose = Purpose.VIEW,
    workers: Threads = ALONE,
) -> Tensor:
    """View number `view` of `images` (N,) in `epoch`: normalised float32 (N, 3, size, size)."""
    heights, widths = source.heights[images], source.widths[images]
    drawn = draw(pipeline, heights, widths, images, seed, epoch, view, purpose)
    return apply(source, images, drawn, pipeline, workers)


@dataclass(frozen=True)
class TwoViews:
    """Makes the two augmented views of a batch, channels last: functions of (seed, epoch, image) alone."""

    source: Source
    pipeline: Pipeline
    seed: int
    workers: Threads = ALONE

    def __call__(self, images: NDArray[np.int64], epoch: int) -> tuple[Tensor, Tensor]:
        """Query and key view of `images` (N,), each normalised float32 (N, 3, size, size)."""
        first, second = (
            random_view(self.source, images, self.pipeline, self.seed, epoch, view, workers=self.workers).contiguous(
                memory_format=torch.channels_last
            )
            for view in (0, 1)
        )
        return first, second

    def ahead(self, images: NDArray[np.int64]) -> None:
        """`images` (N,) come next: begin to read them."""
        self.source.ahead(images)


def evaluation_view(source: Source, images: NDArray[np.int64], size: int, scaling: Scaling = IMAGENET) -> Tensor:
    """The centre view of `images` (N,): float32 (N, 3, size, size), normalised by `scaling` as in training."""
    drawn = centre(size, source.heights[images], source.widths[images])
    return apply(source, images, drawn, Pipeline(size, mean=scaling.mean, std=scaling.std))


def apply(
    source: Source,
    images: NDArray[np.int64],
    parameters: Parameters,
    pipeline: Pipeline,
    workers: Threads = ALONE,
) -> Tensor:
    """The fastest applier for the device; all give the same pixels within the tests' tolerance.

    On the CPU `workers` make some views each: the same ones for any number of them.
    """
    pixels, images = source.take(images), np.arange(len(images))
    if pixels.device.type == "cuda":
        return cuda.apply(pixels, images, parameters, pipeline)
    applier = cpu if cpu.available() else reference

    def some(start: int) -> Tensor:
        rows = slice(start, start + CHUNK)
        return applier.apply(pixels, images[rows], parameters.rows(rows), pipeline)

    made = workers.map(some, range(0, max(len(images), 1), CHUNK))
    return made[0] if len(made) == 1 else torch.cat(made)
