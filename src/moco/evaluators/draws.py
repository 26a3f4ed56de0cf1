"""Which images of a training split are labelled: balanced draws, each inside every larger one of its number."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moco.errors import UserError
from moco.randomness import Purpose, permutation

VALID = "a share of every class (10%), a number of each (20-per-class), or all"


@dataclass(frozen=True)
class Amount:
    """How many labels: a share of every class, or a number of each.

    Attributes:
        share: above 0, at most 1.
        per_class: 1 or more; classes with fewer images give all they have.
    """

    share: float | None = None
    per_class: int | None = None

    @classmethod
    def parse(cls, text: str) -> Amount:
        """`10%`, `20-per-class` or `all`. Raises `UserError` for anything else."""
        word = text.strip()
        if word == "all":
            return cls(share=1.0)
        if (number := re.fullmatch(r"(\d+(?:\.\d+)?) ?%", word)) and 0 < float(number[1]) <= 100:
            return cls(share=float(number[1]) / 100)
        if (number := re.fullmatch(r"(\d+)-per-class", word)) and int(number[1]) > 0:
            return cls(per_class=int(number[1]))
        raise UserError(f"--labels is {text!r}, give {VALID}")

    @property
    def slug(self) -> str:
        """As a part of a file's name: `10pct`, `20-per-class`, `all`."""
        if self.per_class is not None:
            return f"{self.per_class}-per-class"
        assert self.share is not None
        return "all" if self.share == 1 else f"{100 * self.share:g}pct"

    def lacking(self, class_images: NDArray[np.int64]) -> int:
        """How many classes have fewer of their `class_images` (C,) than were asked for of each, and give all."""
        return 0 if self.per_class is None else int((class_images < self.per_class).sum())

    def of(self, class_images: NDArray[np.int64]) -> NDArray[np.int64]:
        """Labels of each class, int64 (C,), of its `class_images` (C,): one at least where a class has an image."""
        if self.per_class is not None:
            return np.minimum(class_images, self.per_class)
        assert self.share is not None
        wanted = np.floor(self.share * class_images + 0.5).astype(np.int64)
        return np.minimum(class_images, np.maximum(wanted, 1))


def draw(labels: NDArray[np.int64], amount: Amount, seed: int, number: int) -> NDArray[np.int64]:
    """The images that draw `number` labels: ascending int64 (n,), a function of (`labels`, `amount`, seed, number).

    Every class is drawn from by itself, so that each draw has the classes' own proportions (or the same number of
    each). More labels of the same draw are those images and others. `labels` is int64 (N,), classes from 0.
    """
    order = permutation(len(labels), seed, Purpose.LABELS, number)
    by_class = order[np.argsort(labels[order], kind="stable")]  # class after class, each in the permutation's order
    class_images = np.bincount(labels)
    ends = np.cumsum(class_images)
    place = np.arange(len(labels)) - np.repeat(ends - class_images, class_images)  # within its class
    return np.sort(by_class[place < np.repeat(amount.of(class_images), class_images)])


def folds(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """A fold from 0 to `count` - 1 for each image, int64 (n,): every class is spread over all of them evenly."""
    order = permutation(len(labels), seed, Purpose.LABEL_FOLDS)
    by_class = order[np.argsort(labels[order], kind="stable")]
    made = np.empty(len(labels), np.int64)
    made[by_class] = np.arange(len(labels)) % count
    return made
