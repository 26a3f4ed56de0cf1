"""The doctor: every file of a data set read once, and what is the matter with them."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moco.config import StoreConfig
from moco.console import progress
from moco.data.dataset import place
from moco.data.diagnosis import Depth, Diagnosis, Facts, NearPair, Unreadable, size_statistics
from moco.data.duplicates import MOST_DISTANT, groups, near_pairs
from moco.data.folder import scan
from moco.data.images import BadImage, read_picture
from moco.data.item import Item
from moco.data.layout import Layout, arrange
from moco.data.parallel import in_order
from moco.data.ranges import Ranges
from moco.data.remarks import without_remarks
from moco.errors import UserError, printable

THUMBNAIL = 64  # px, short side that the hashes are made from


@dataclass(frozen=True)
class _Patient:
    """One file: where it belongs, and what was found."""

    item: Item
    split: str
    label: int
    facts: Facts | str


Judge = Callable[[list[Item], NDArray[np.int64]], list[NearPair]]


def check_distance(distance: int) -> None:
    """Raise `UserError` for a distance that hashes can't be compared by."""
    if not 0 <= distance <= MOST_DISTANT:
        raise UserError(f"--distance is {distance}, give 0 to {MOST_DISTANT} bits")


def examine(layout: Layout, distance: int, judge: Judge | None = None) -> Diagnosis:
    """Read every file of both splits, on all cores.

    Pictures count as nearly the same if their DCT hashes differ in at most `distance` of 64 bits and their
    gradient hashes in at most twice as many: one alone confuses things on plain backgrounds. With a `judge` that only
    proposes: it is given the readable items and pairs of them, int (P, 2), and says which pairs are copies.
    Raises `UserError` for a distance that is none.
    """
    check_distance(distance)
    started = time.perf_counter()
    ranges = Ranges("auto", layout.pools)
    patients = _seen(layout, ranges)
    well = [p for p in patients if isinstance(p.facts, Facts)]
    facts = [p.facts for p in well if isinstance(p.facts, Facts)]
    exact = groups(_chains([f.digest for f in facts]), len(well))
    proposed = _nearly(facts, distance)
    judged = judge([p.item for p in well], proposed) if judge is not None else []
    pairs = proposed if judge is None else np.array([pair.numbers for pair in judged], np.int64).reshape(-1, 2)
    near = [group for group in groups(pairs, len(well)) if len({facts[i].digest for i in group}) > 1]

    def named(sets: list[list[int]], wanted: Callable[[list[_Patient]], bool] = lambda _: True) -> list[list[str]]:
        members = ([well[i] for i in s] for s in sets)
        return [[p.item.name for p in m] for m in members if wanted(m)]

    return Diagnosis(
        note=layout.note,
        images={name: sum(p.split == name for p in patients) for name in ("train", "val")},
        seconds=time.perf_counter() - started,
        distance=distance,
        unreadable=[Unreadable(p.item.name, p.split, p.facts) for p in patients if isinstance(p.facts, str)],
        exact_duplicates=named(exact),
        near_duplicates=named(near),
        exact_leaks=named(exact, _in_both_splits),
        near_leaks=named(near, _in_both_splits),
        near_pairs=judged,
        label_conflicts=named(exact, lambda members: len({p.label for p in members}) > 1),
        classes=class_counts(layout.classes, ((p.label, p.split) for p in well)),
        depths=_depths(facts, ranges),
        unended=[p.item.name for p, f in zip(well, facts, strict=True) if not f.ended],
        sizes=size_statistics([(p.item.name, f) for p, f in zip(well, facts, strict=True)]),
    )


def layout_of(spec: str, labels: str) -> Layout:
    """Splits and classes of what `spec` names, as training would read them; raises `UserError`."""
    return arrange(scan(place(spec)), labels, StoreConfig.holdout, printable(spec))


def class_counts(classes: list[str], seen: Iterable[tuple[int, str]]) -> dict[str, dict[str, int]]:
    """Images of each class by split; each of `seen`, (label, split), is looked at once."""
    counts = Counter(seen)
    return {name: {split: counts[n, split] for split in ("train", "val")} for n, name in enumerate(classes)}


def _seen(layout: Layout, ranges: Ranges) -> list[_Patient]:
    queue = [(item, name, n) for name, split in layout.splits.items() for item, n in zip(split.items, split.labels)]
    patients = []
    with (
        contextlib.closing(in_order(partial(look, ranges=ranges), [item for item, _, _ in queue])) as found,
        without_remarks(),
        progress("examining", len(queue), "images/s") as bar,
    ):
        for done, ((item, split, label), facts) in enumerate(zip(queue, found), 1):
            patients.append(_Patient(item, split, label, facts))
            if done % 50 == 0 or done == len(queue):
                bar.update(done)
    return patients


def look(item: Item, ranges: Ranges) -> Facts | str:
    """What one file is, or why it can't be read; `ranges` as for packing."""
    try:
        content = item.read()
        seen = read_picture(content, THUMBNAIL, ranges)
    except BadImage as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    image = Image.fromarray(seen.pixels)
    dct, gradient = _packed(imagehash.phash(image)), _packed(imagehash.dhash(image))
    digest = hashlib.sha256(content).digest()
    return Facts(digest, dct, gradient, seen.width, seen.height, seen.source, seen.deep, seen.ended)


def _packed(found: imagehash.ImageHash) -> int:
    return int.from_bytes(np.packbits(found.hash).tobytes(), "big")


def _depths(facts: list[Facts], ranges: Ranges) -> dict[str, Depth]:
    counts = Counter(f.deep for f in facts if f.deep is not None)
    found = {}
    for kind in sorted(counts, key=str):
        used = ranges(kind)
        share = (used.high - used.low) / (kind.full[1] - kind.full[0])
        found[str(kind)] = Depth(counts[kind], used.found, used.no_data, (used.low, used.high), kind.full, share)
    return found


def _in_both_splits(members: list[_Patient]) -> bool:
    return len({p.split for p in members}) > 1


def _chains(keys: list[bytes]) -> np.ndarray:
    """Pairs that connect each thing with the first of the same key, int64 (P, 2)."""
    first: dict[bytes, int] = {}
    pairs = [(first.setdefault(key, i), i) for i, key in enumerate(keys)]
    return np.array([pair for pair in pairs if pair[0] != pair[1]], np.int64).reshape(-1, 2)


def _nearly(facts: list[Facts], distance: int) -> NDArray[np.int64]:
    """Pairs int (P, 2) that connect nearly the same pictures, by their hashes; whole files may be the same too."""
    looks = np.array([(f.dct, f.gradient) for f in facts], np.uint64).reshape(-1, 2)
    distinct, first, which = np.unique(looks, axis=0, return_index=True, return_inverse=True)
    pairs = near_pairs(distinct[:, 0], distance)  # of piles: those of blank pictures are one each
    apart = np.bitwise_count(distinct[pairs[:, 0], 1] ^ distinct[pairs[:, 1], 1])
    across = first[pairs[apart <= 2 * distance]]
    within = np.column_stack([first[which.ravel()], np.arange(len(facts))])
    return np.concatenate([across, within[within[:, 0] != within[:, 1]]]).astype(np.int64)
