"""What learns: a step at a time, from wherever it stands, with everything that a checkpoint of it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moco.config import CheckpointConfig, OptimizerConfig, ScheduleConfig
from moco.data.sampler import Batch
from moco.errors import UserError, in_a_line
from moco.train.guard import FiniteGuard
from moco.train.optimizer import lie_alike, set_lr
from moco.train.schedule import learning_rate
from moco.train.state import Progress, Totals
from moco.train.steps import Seen

Views = tuple[Tensor, ...]
TrainStep = Callable[[Views, Batch], Seen]


class Plan(Protocol):
    """What a configuration says of any training."""

    @property
    def epochs(self) -> int:
        """How many."""

    @property
    def optimizer(self) -> OptimizerConfig:
        """With the peak learning rate."""

    @property
    def schedule(self) -> ScheduleConfig:
        """How the rate goes."""

    @property
    def checkpoint(self) -> CheckpointConfig:
        """When to save, and what is kept."""

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, as checkpoints hold them."""


P = TypeVar("P", bound=Plan)


class Batches(Protocol):
    """Which images make which step."""

    @property
    def batch_size(self) -> int:
        """Images a step."""

    @property
    def steps_per_epoch(self) -> int:
        """The same in every epoch."""

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The images of `epoch` by step, int64 (steps_per_epoch, batch_size): a function of `epoch`."""


class MakeViews(Protocol):
    """Makes the views of a batch; told of the next one early, so that its pixels can be read meanwhile."""

    def __call__(self, batch: Batch) -> Views:
        """This process's views of it, each (n, 3, S, S)."""

    def ahead(self, batch: Batch) -> None:
        """`batch` comes next."""


@dataclass
class Training(Generic[P]):
    """A model with its optimizer, its data and its place in the run.

    Attributes:
        sampler: which images make which step.
        views: makes a batch's views.
        train_step: (views, their batch) -> what it saw; the only thing here that moves the model.
        guard: watches the loss inside `train_step`.
        progress: how far it is.
        totals: the epoch's statistics so far.
        side: of the views of the last step, in pixels.
    """

    config: P
    model: nn.Module
    optimizer: torch.optim.Optimizer
    sampler: Batches
    views: MakeViews
    train_step: TrainStep
    guard: FiniteGuard
    progress: Progress = field(default_factory=Progress)
    totals: Totals = field(default_factory=Totals)
    side: int | None = None

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.config.epochs * self.sampler.steps_per_epoch

    @property
    def epoch(self) -> int:
        """The epoch that the next step belongs to, from 0."""
        return self.progress.step // self.sampler.steps_per_epoch

    @property
    def row_is_due(self) -> bool:
        """Whether an epoch's steps are all done and its row isn't there: it was stopped while it was measured."""
        return len(self.progress.rows) < self.epoch and self.progress.step % self.sampler.steps_per_epoch == 0

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        config, per_epoch = self.config, self.sampler.steps_per_epoch
        return learning_rate(config.schedule, config.optimizer.lr, self.progress.step, per_epoch, config.epochs)

    def batch(self, images: NDArray[np.int64], later: int = 0) -> Batch:
        """`images` (N,) as the next step's, or as that of so many steps later in this epoch."""
        return Batch(images, self.epoch, self.progress.step + later)

    def step(self, images: NDArray[np.int64]) -> Seen:
        """The next step, on `images` (N,): what it saw, as scalars on the device."""
        batch, lr = self.batch(images), self.lr
        set_lr(self.optimizer, lr)
        self.guard.watch(batch.step + 1, lr)
        views = self.views(batch)
        self.side = views[0].shape[-1]
        stats = self.learn(views, batch)
        self.totals.add(stats)
        self.progress.step += 1
        return stats

    def learn(self, views: Views, batch: Batch) -> Seen:
        """The training step on `views` of `batch`, with what it draws at that place; nothing is counted."""
        return self.train_step(views, batch)

    def ahead(self, images: NDArray[np.int64]) -> None:
        """The step after the next one is on `images` (N,), in this epoch."""
        self.views.ahead(self.batch(images, later=1))

    def state_dict(self) -> dict[str, Any]:
        """Everything that makes the next step what it is, loadable with `weights_only=True`."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": {**self.progress.state_dict(), "sums": self.totals.state_dict()},
        }

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave. Raises `UserError` if it is of another model."""
        try:
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            lie_alike(self.optimizer)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"the checkpoint is of another architecture: {in_a_line(error)}") from error
        self.progress.load_state_dict(content["state"])
        self.totals.load_state_dict(content["state"]["sums"])
