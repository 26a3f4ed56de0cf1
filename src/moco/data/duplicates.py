"""Which pictures are the same, or nearly: groups from 64-bit perceptual hashes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

BITS = 64
MOST_DISTANT = 12  # bits; beyond it the search below is no longer much faster than all pairs


def near_pairs(hashes: NDArray[np.uint64], distance: int) -> NDArray[np.int64]:
    """All pairs i < j of `hashes`, uint64 (N,), that differ in at most `distance` bits, int64 (P, 2).

    Two such hashes agree entirely on at least one of `distance` + 1 bands of bits, so only hashes that share
    a band are compared: exact, and fast for a million. Many equal hashes make many pairs: thin them out before.
    """
    assert 0 <= distance <= MOST_DISTANT
    found: list[NDArray[np.int64]] = [np.empty((0, 2), np.int64)]
    edges = np.linspace(0, BITS, distance + 2).astype(int)
    for low, high in pairwise(edges.tolist()):
        mask = np.uint64(((1 << high) - 1) ^ ((1 << low) - 1))
        order = np.argsort(hashes & mask, kind="stable")
        bands = (hashes & mask)[order]
        starts = np.flatnonzero(np.r_[True, bands[1:] != bands[:-1]])
        for start, end in zip(starts, [*starts[1:], len(bands)], strict=True):
            if end - start > 1:
                found += _within(hashes, order[start:end], distance)
    pairs = np.concatenate(found)
    return np.unique(np.sort(pairs, axis=1), axis=0)


def groups(pairs: NDArray[np.int64], count: int) -> list[list[int]]:
    """The sets of two or more of `count` things that `pairs` (int (P, 2)) connect, in order of their first member."""
    first = list(range(count))  # the least member known of each thing's set, or a step towards it

    def find(thing: int) -> int:
        while first[thing] != thing:
            first[thing] = first[first[thing]]
            thing = first[thing]
        return thing

    for a, b in pairs.tolist():
        low, high = sorted((find(a), find(b)))
        first[high] = low
    sets: dict[int, list[int]] = {}
    for thing in range(count):
        sets.setdefault(find(thing), []).append(thing)
    return [members for members in sets.values() if len(members) > 1]


def _within(hashes: NDArray[np.uint64], members: NDArray[np.int64], distance: int) -> list[NDArray[np.int64]]:
    """Pairs among `members`, a thousand rows at a time."""
    found = []
    for first in range(0, len(members), 1000):
        rows = members[first : first + 1000]
        near = np.bitwise_count(hashes[rows][:, None] ^ hashes[members][None]) <= distance
        i, j = np.nonzero(near)
        keep = rows[i] < members[j]
        found.append(np.stack([rows[i], members[j]], 1)[keep])
    return found
