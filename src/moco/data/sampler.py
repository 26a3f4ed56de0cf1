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
class Windows:
    """An epoch goes through a packed store some chunks at a time, for stores that aren't all at hand.

    The chunks are shuffled anew each epoch, and so are the images of each window of them. Within its chunk an image has
    been shuffled once, when it was packed: the more chunks in a window, the nearer to a shuffle of all images.

    Attributes:
        chunk_of: the chunk of each image, int64 (N,).
        size: chunks in a window.
    """

    chunk_of: NDArray[np.int64]
    size: int

    def chunks(self, seed: int, epoch: int) -> list[NDArray[np.int64]]:
        """The chunks of each window of `epoch`, in its order."""
        present = np.unique(self.chunk_of)
        shuffled = present[permutation(len(present), seed, Purpose.CHUNK_ORDER, epoch)]
        return [shuffled[first : first + self.size] for first in range(0, len(shuffled), self.size)]

    def of_images(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The window of each image in `epoch`, int64 (N,)."""
        window = np.zeros(int(self.chunk_of.max()) + 1, np.int64)
        for number, chunks in enumerate(self.chunks(seed, epoch)):
            window[chunks] = number
        return window[self.chunk_of]


@dataclass(frozen=True)
class Sampler:
    """Batches of an epoch. The last, incomplete batch is left out (batch-norm and the queue want full ones).

    Attributes:
        count: images in the training split.
        batch_size: images a step.
        seed: of the permutations.
        windows: how an epoch goes through a store that isn't all at hand; None: in one permutation.
    """

    count: int
    batch_size: int
    seed: int
    windows: Windows | None = None

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
        if self.windows is not None:
            window = self.windows.of_images(self.seed, epoch)
            shuffled = shuffled[np.argsort(window[shuffled], kind="stable")]
        return shuffled[: self.steps_per_epoch * self.batch_size].reshape(-1, self.batch_size)
