"""One range for each kind of numbers in a data set, so that no picture is stretched by its own.

Neighbours in a series would come out differently otherwise. What is used is found in a sample of all images of the
kind, when the first of them is decoded: a data set of 8 bits costs nothing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from moco.config import parse_range
from moco.data.depth import Kind
from moco.data.images import BadImage, can_be_deep, read_deep
from moco.data.item import Item
from moco.data.levels import Range, chosen, full_range, thinned
from moco.data.parallel import in_order

SAMPLED_IMAGES = 200  # of each kind
HEAD_BYTES = 32


class Ranges:
    """The range of each kind; the first call for a kind looks at a sample of its images."""

    def __init__(self, how: str, splits: Sequence[Sequence[Item]]) -> None:
        """`how` is `store.range`. Of `splits` the first that has images of the kind decides: validation images are
        shown as the training images are.
        """
        self._how, self._given, self._splits = how, parse_range(how), splits
        self._lock = threading.Lock()
        self._known: dict[Kind, Range] = {}

    def __call__(self, kind: Kind) -> Range:
        """The range of `kind`."""
        with self._lock:
            if kind not in self._known:
                self._known[kind] = self._decided(kind)
            return self._known[kind]

    def _decided(self, kind: Kind) -> Range:
        if self._given is not None:
            return Range(*self._given)
        if self._how == "full":
            return full_range(kind)
        sample = self._sample(kind)
        return chosen(kind, sample) if sample else full_range(kind)

    def _sample(self, kind: Kind) -> list[NDArray[np.float64]]:
        for items in self._splits:
            found: list[NDArray[np.float64]] = []
            spread = [items[i] for i in evenly_spread(len(items))]
            with contextlib.closing(in_order(partial(_numbers, kind=kind), spread)) as looked:
                for numbers in looked:
                    if numbers is not None:
                        found.append(numbers)
                        if len(found) == SAMPLED_IMAGES:
                            break
            if found:
                return found
        return []


def evenly_spread(count: int) -> list[int]:
    """0 to count - 1 in an order of which every beginning is spread evenly: by their bits, the lowest first."""
    bits = max(count - 1, 0).bit_length()
    numbers = np.arange(count, dtype=np.int64)
    turned = np.zeros(count, np.int64)
    for bit in range(bits):
        turned |= ((numbers >> bit) & 1) << (bits - 1 - bit)
    return [int(i) for i in np.argsort(turned, kind="stable")]


def _numbers(item: Item, kind: Kind) -> NDArray[np.float64] | None:
    """Some of the item's numbers if it is of that kind; None if not, or if it can't be read: packing says so."""
    try:
        if not can_be_deep(item.read(HEAD_BYTES)):
            return None
        image = read_deep(item.read())
    except (BadImage, OSError):
        return None
    return thinned(image) if image is not None and image.kind == kind else None
