"""Which images lie near which, by the frozen backbone's features; which near none, or among those of another label."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from moco.data.store import Store
from moco.errors import printable
from moco.evaluators.features import Features, LabelledFeatures
from moco.evaluators.knn import nearest
from moco.reporting.contents import Odd
from moco.runs.evaluate import readable

CLOSE = 10  # neighbours whose mean similarity says how typical an image is
ODD_ONES = 24
MOSTLY = 0.5  # share of the neighbours that must agree on another label


@dataclass(frozen=True)
class Split:
    """The looked-at images of a split: `numbers` int64 (N,) in the store, features of the same N."""

    name: str
    store: Store
    numbers: NDArray[np.int64]
    features: Features

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """int64 (N,), -1 without labels."""
        return self.store.labels[self.numbers]

    @cached_property
    def unit(self) -> Tensor:
        """Features of length one, float32 (N, F), on their device."""
        return torch.cat([F.normalize(block, dim=1) for _, block in self.features.blocks()])

    def labelled(self) -> LabelledFeatures:
        """As evaluators take them."""
        return LabelledFeatures(
            self.features, torch.from_numpy(self.labels).to(self.features.device), self.store.classes
        )

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass
class Album:
    """The pictures that the page shows, each once: `number` gives the place of one, which is made room for."""

    places: dict[tuple[str, int], int] = field(default_factory=dict)

    def number(self, split: Split, row: int) -> int:
        """The picture number of image `row` of `split`."""
        return self.places.setdefault((split.name, row), len(self.places))


@dataclass(frozen=True)
class Close:
    """The nearest training images of every looked-at image, itself left out.

    Attributes:
        train: the bank.
        splits: the images asked about.
        similarity, number: (N, k) of each split, best first; `number` is a row of `train`.
    """

    train: Split
    splits: list[Split]
    similarity: list[NDArray[np.float32]]
    number: list[NDArray[np.int64]]

    @classmethod
    def of(cls, train: Split, val: Split | None, k: int = 20) -> Close:
        similarities, numbers = [], []
        splits = [train] if val is None else [train, val]
        for split in splits:
            own = split is train
            similarity, number = (t.cpu().numpy() for t in nearest(train.features, split.unit, k + own))
            if own:
                similarity, number = without_self(similarity, number)
            similarities.append(similarity)
            numbers.append(number)
        return cls(train, splits, similarities, numbers)

    def typical(self, place: int) -> NDArray[np.float32]:
        """float32 (N,): mean similarity of the `CLOSE` nearest."""
        similarity = self.similarity[place]
        return similarity[:, :CLOSE].mean(1) if similarity.shape[1] else np.ones(len(similarity), np.float32)

    def votes(self, place: int) -> NDArray[np.float64]:
        """float64 (N, C): the share of the neighbours with each label."""
        labels = self.train.labels[self.number[place]]
        counts = np.zeros((len(labels), len(self.train.store.classes)))
        np.add.at(counts, (np.arange(len(labels))[:, None], labels), 1 / max(labels.shape[1], 1))
        return counts

    def right_share(self) -> float:
        """The share of all looked-at images whose commonest neighbour label is their own."""
        right = [(self.votes(n).argmax(1) == split.labels).sum() for n, split in enumerate(self.splits)]
        return float(sum(right)) / sum(map(len, self.splits))


def without_self(
    similarity: NDArray[np.float32], number: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Each row without its own number, or without its last where a twin of it pushed itself out."""
    other = number != np.arange(len(number))[:, None]
    order = np.argsort(~other, axis=1, kind="stable")[:, : number.shape[1] - 1]
    return np.take_along_axis(similarity, order, 1), np.take_along_axis(number, order, 1)


def untypical_ones(close: Close, album: Album) -> list[Odd]:
    found = [
        (float(value), place, row)
        for place in range(len(close.splits))
        for row, value in enumerate(close.typical(place))
    ]
    return [
        Odd(album.number(close.splits[place], row), f"similarity {value:.2f}")
        for value, place, row in sorted(found)[:ODD_ONES]
    ]


def suspicious_ones(close: Close, album: Album) -> list[Odd]:
    """Those whose neighbours agree most on another label than theirs."""
    names = [printable(name) for name in readable(close.train.store.classes)]
    found = []
    for place, split in enumerate(close.splits):
        votes = close.votes(place)
        own = votes[np.arange(len(votes)), split.labels]
        other = votes.argmax(1)
        share = votes[np.arange(len(votes)), other]
        for row in np.flatnonzero((other != split.labels) & (share >= MOSTLY)).tolist():
            found.append((float(own[row] - share[row]), place, row, int(other[row]), float(share[row])))
    return [
        Odd(
            album.number(close.splits[place], row),
            f"labelled {names[int(close.splits[place].labels[row])]}; {share:.0%} of its neighbours: {names[other]}",
        )
        for _, place, row, other, share in sorted(found)[:ODD_ONES]
    ]
