"""Which pictures are the same, or nearly: groups from 64-bit perceptual hashes."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moco.errors import UserError, printable
from moco.files import read_json

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


def read_groups(file: Path) -> list[list[str]]:
    """The groups of duplicates that `moco doctor --json FILE` wrote, exact and near ones; names as in the data set.

    Raises `UserError` if the file is none of the doctor's.
    """
    content = read_json(file, "model.mask_groups")
    try:
        found = [*content["exact_duplicates"], *content["near_duplicates"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"model.mask_groups {file}: this is not what `moco doctor DATA --json FILE` writes") from error
    if not all(isinstance(group, list) and all(isinstance(name, str) for name in group) for group in found):
        raise UserError(f"model.mask_groups {file}: its groups must be lists of names")
    return found


def shown_by(names: list[str], named_groups: list[list[str]]) -> tuple[NDArray[np.int64], int]:
    """What each image shows, int64 (N,): the number of the first image of its group, its own number without one.

    Groups with an image in common are one. Also returns how many of them have two images or more among `names`. Raises
    `UserError` for a group of an image whose name another one has too, as files of two sources may.
    """
    grouped = {name for group in named_groups for name in group}
    if several := sorted(name for name, count in Counter(names).items() if count > 1 and name in grouped):
        raise UserError(
            f"model.mask_groups: {printable(several[0])} stands for several images (of several sources of --data), so "
            "it doesn't say which: put them below one folder, and look for duplicates there"
        )
    numbers = {name: number for number, name in enumerate(names)}
    found = [[numbers[name] for name in group if name in numbers] for group in named_groups]
    pairs = [(group[0], other) for group in found for other in group[1:]]
    shown = np.arange(len(names))
    joined = groups(np.array(pairs, np.int64).reshape(-1, 2), len(names))
    for members in joined:
        shown[members] = members[0]
    return shown, len(joined)
