"""Which images make which step: a permutation per epoch, a function of the seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moco.errors import UserError
from moco.randomness import Purpose, permutation


@dataclass(frozen=True)
class Batch:
    """What one step is made of, on all processes together.

    Attributes:
        images: their numbers, int64 (N,).
        epoch, step: where the step is in the run, from 0.
    """

    images: NDArray[np.int64]
    epoch: int
    step: int

    def __len__(self) -> int:
        """N."""
        return len(self.images)


@dataclass(frozen=True)
class Sampler:
    """Batches of an epoch. The last, incomplete batch is left out (batch-norm and the queue want full ones).

    Attributes:
        count: images in the training split.
        batch_size: images a step.
        seed: of the permutations.
    """

    count: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.batch_size > self.count:
            raise UserError(
                f"train.batch_size {self.batch_size} is larger than the data ({self.count} images): "
                f"give --train.batch_size {self.count} or less"
            )

    @property
    def steps_per_epoch(self) -> int:
        return self.count // self.batch_size

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The images of `epoch` by step, int64 (steps_per_epoch, batch_size)."""
        shuffled = permutation(self.count, self.seed, Purpose.ORDER, epoch)
        return shuffled[: self.steps_per_epoch * self.batch_size].reshape(-1, self.batch_size)
