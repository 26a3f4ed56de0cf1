"""Views of a batch: draw, then apply on whatever device the pixels are on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco.randomness import Purpose, permutation
from moco.ranks import ALONE as ONE_PROCESS
from moco.ranks import Ranks
from moco.threads import Threads
from moco.views import cpu, cuda, reference
from moco.views.parameters import Parameters, centre, draw
from moco.views.pipelines import IMAGENET, Crops, Pipeline, Scaling
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
    compiled: bool = False,
) -> Tensor:
    """View number `view` of `images` (N,) in `epoch`: normalised float32 (N, 3, size, size).

    `compiled` for a training's batches, on a GPU (`cuda.apply`).
    """
    heights, widths = source.heights[images], source.widths[images]
    drawn = draw(pipeline, heights, widths, images, seed, epoch, view, purpose)
    return apply(source, images, drawn, pipeline, workers, compiled)


class Step(Protocol):
    """Which images, and where in the run: what a batch of `data/sampler.py` is."""

    @property
    def images(self) -> NDArray[np.int64]:
        """Numbers (N,)."""

    @property
    def epoch(self) -> int:
        """From 0."""

    @property
    def step(self) -> int:
        """From 0."""


@dataclass(frozen=True)
class TrainingViews:
    """Makes the augmented views of a batch, channels last: functions of (seed, epoch, image) alone.

    One process makes all views of all images, and shuffles the keys' itself. Of several each makes what it works on:
    the queries' views of its rows, and the keys' views of the rows that the shuffle gives it. No pixel travels.

    Attributes:
        crops: what makes them.
        ranks: this process's place.
        shuffled: whether several processes shuffle the keys between them (`key_order`).
        symmetric: whether each view is query and key once.
    """

    source: Source
    crops: Crops
    seed: int
    workers: Threads = ALONE
    ranks: Ranks = ONE_PROCESS
    shuffled: bool = False
    symmetric: bool = False

    def __call__(self, batch: Step) -> tuple[Tensor, ...]:
        """The views, each normalised float32 (n, 3, size, size), n = N / processes.

        First and second view of the images; where keys are shuffled between processes, the queries' and then the keys':
        (first, second) or, if symmetric, (first, second, first, second). Then the queries' small ones, of their size.
        """
        shares, small = self._shares(batch), self.crops.small_views
        if len(shares) == 1:
            return self._of(shares[0], batch.epoch, (0, 1, *small))
        queries, keys = shares
        full = (0, 1) if self.symmetric else (0,)
        made = self._of(queries, batch.epoch, (*full, *small))  # together: their pixels are taken once
        of_keys = self._of(keys, batch.epoch, (0, 1) if self.symmetric else (1,))
        return *made[: len(full)], *of_keys, *made[len(full) :]

    def ahead(self, batch: Step) -> None:
        """`batch` comes next: begin to read its images."""
        for images in self._shares(batch):
            self.source.ahead(images)

    def _shares(self, batch: Step) -> list[NDArray[np.int64]]:
        """The images of this process: of queries and keys alike, or of the one and of the other."""
        rows = self.ranks.rows(len(batch.images))
        if self.ranks.world == 1 or not self.shuffled:
            return [batch.images[rows]]
        order = key_order(len(batch.images), self.seed, batch.step)
        return [batch.images[rows], batch.images[order[rows]]]

    def _of(self, images: NDArray[np.int64], epoch: int, numbers: tuple[int, ...]) -> tuple[Tensor, ...]:
        def made(view: int) -> Tensor:
            spec = self.crops.at(epoch, view)
            drawn = random_view(self.source, images, spec, self.seed, epoch, view, workers=self.workers, compiled=True)
            return drawn.contiguous(memory_format=torch.channels_last)

        return tuple(made(view) for view in numbers)


def key_order(count: int, seed: int, step: int) -> NDArray[np.int64]:
    """The permutation int64 (count,) that shuffles a step's keys between batch-norm parts (v1 section 3.3)."""
    return permutation(count, seed, Purpose.BN_SHUFFLE, step)


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
    compiled: bool = False,
) -> Tensor:
    """The fastest applier for the device; all give the same pixels within the tests' tolerance.

    On the CPU `workers` make some views each: the same ones for any number of them.
    """
    pixels, images = source.take(images), np.arange(len(images))
    if pixels.device.type == "cuda":
        return cuda.apply(pixels, images, parameters, pipeline, compiled)
    applier = cpu if pixels.device.type == "cpu" and cpu.available() else reference

    def some(start: int) -> Tensor:
        rows = slice(start, start + CHUNK)
        return applier.apply(pixels, images[rows], parameters.rows(rows), pipeline)

    made = workers.map(some, range(0, max(len(images), 1), CHUNK))
    return made[0] if len(made) == 1 else torch.cat(made)
