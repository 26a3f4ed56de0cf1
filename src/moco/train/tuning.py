"""Supervised training of a whole network: which images, which views, the step, and what it tells."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from moco.console import percent
from moco.data.sampler import Batch
from moco.randomness import Purpose, permutation, torch_seed
from moco.runtime import Runtime
from moco.tables import Row
from moco.threads import Threads, operations_on
from moco.train.metrics import Account
from moco.views.make import apply
from moco.views.parameters import draw
from moco.views.pipelines import Pipeline
from moco.views.source import Source


@dataclass(frozen=True)
class TuneStats:
    """What one step saw, as scalars on the device.

    Attributes:
        loss: cross-entropy, mean over the batch (weighted, where the classes are).
        top1: share of the batch's augmented views classified right, before the step.
    """

    loss: Tensor
    top1: Tensor


@dataclass(frozen=True)
class LabelledOrder:
    """Batches of the labelled images: each once an epoch, or every class equally often.

    The k-th time that an image comes in an epoch it has the number image + k * count, so that each has a view of its
    own. The last, incomplete batch is left out.

    Attributes:
        images: their numbers in the split, int64 (n,).
        classes: of each, int64 (n,).
        count: images in the split.
        batch_size: images a step.
        seed: of the permutations.
        balanced: every class equally often: images of small classes come again, those of large ones take turns.
    """

    images: NDArray[np.int64]
    classes: NDArray[np.int64]
    count: int
    batch_size: int
    seed: int
    balanced: bool = False

    @property
    def steps_per_epoch(self) -> int:
        return len(self.images) // self.batch_size

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The numbers of `epoch` by step, int64 (steps_per_epoch, batch_size): a function of (seed, epoch)."""
        total = self.steps_per_epoch * self.batch_size
        numbers = self._balanced(epoch, total) if self.balanced else self.images
        shuffled = numbers[permutation(len(numbers), self.seed, Purpose.TUNE_ORDER, epoch)]
        return shuffled[:total].reshape(-1, self.batch_size)

    def _balanced(self, epoch: int, total: int) -> NDArray[np.int64]:
        """`total` numbers or a few more, as many of every class."""
        there = np.unique(self.classes)
        wanted = -(-total // len(there))
        made = []
        for label in there.tolist():
            own = self.images[self.classes == label]
            for time in range(-(-wanted // len(own))):
                order = permutation(len(own), self.seed, Purpose.TUNE_ORDER, epoch, label + 1, time)
                made.append(own[order][: wanted - time * len(own)] + time * self.count)
        return np.concatenate(made)


@dataclass(frozen=True)
class LabelledViews:
    """One augmented view of each image of a batch, channels last: a function of (seed, epoch, number) alone."""

    source: Source
    pipeline: Pipeline
    seed: int
    workers: Threads

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """Normalised float32 (N, 3, size, size) for the numbers of `LabelledOrder`."""
        places = batch.images % len(self.source)
        heights, widths = self.source.heights[places], self.source.widths[places]
        drawn = draw(self.pipeline, heights, widths, batch.images, self.seed, batch.epoch, 0, Purpose.TUNE_VIEW)
        view = apply(self.source, places, drawn, self.pipeline, self.workers, compiled=True)
        return (view.contiguous(memory_format=torch.channels_last),)

    def ahead(self, batch: Batch) -> None:
        """`batch` comes next: begin to read its pixels."""
        self.source.ahead(batch.images % len(self.source))


@dataclass(frozen=True)
class TuneStep:
    """Cross-entropy, its gradient, a step of the optimizer.

    Attributes:
        labels: of every image of the split, int64 (count,), on the device.
        guard: called with the loss before it reaches the weights; raises to stop.
        seed: of what the network draws (dropout).
        class_weights: float32 (classes,) of the loss, None for equal ones.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    runtime: Runtime
    guard: Callable[[Tensor], None]
    labels: Tensor
    seed: int
    class_weights: Tensor | None = None

    def __call__(self, views: tuple[Tensor, ...], batch: Batch) -> TuneStats:
        """The step on one view (N, 3, H, W) of the numbers of `LabelledOrder`."""
        self.runtime.begin_step()
        images = torch.from_numpy(batch.images % len(self.labels)).to(self.runtime.device, non_blocking=True)
        true = self.labels[images]
        self.optimizer.zero_grad(set_to_none=True)
        on_cpu = self.runtime.device.type == "cpu"
        with operations_on(self.runtime.threads) if on_cpu else contextlib.nullcontext():
            torch.manual_seed(torch_seed(self.seed, Purpose.DROPOUT, batch.step))
            with self.runtime.autocast():
                logits = self.model(views[0])
                loss = F.cross_entropy(logits.float(), true, weight=self.class_weights)
            self.runtime.backward(loss)
            self.guard(loss)
            self.optimizer.step()
        return TuneStats(loss.detach(), (logits.detach().argmax(1) == true).float().mean())


def class_weights(classes: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    """Weights of the loss, float32 (count,), by which each class counts as much: n / (classes there * its images).

    `classes` (n,) are the labelled images'; a class without one has weight 0.
    """
    images = np.bincount(classes, minlength=count)
    there = images > 0
    weights = np.zeros(count, np.float32)
    weights[there] = len(classes) / (there.sum() * images[there])
    return weights


def _of_epoch(means: Mapping[str, float], config: Any) -> Row:
    return {"views_top1": means["top1"]}


def _line(row: Row, epochs: int) -> str:
    parts = [f"epoch {row['epoch']}/{epochs}", f"loss {row['loss']:.3f}", f"views {percent(row['views_top1'], 1)}"]
    if row.get("val_top1") is not None:
        parts.append(f"validation {percent(row['val_top1'], 2)}")
    parts.append(f"{row['samples_per_s']:,.0f} samples/s")
    return "  ".join(parts)


TUNING = Account(
    ("epoch", "step", "samples", "seconds", "samples_per_s", "lr", "loss", "views_top1", "val_top1", "val_loss"),
    _of_epoch,
    _line,
    "views_top1",
    "moco finetune --resume",
)
