"""What the doctor found, as plain numbers and names; its JSON form is documented in docs/doctor.md."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from moco.data.depth import Kind


@dataclass(frozen=True)
class Facts:
    """One readable file.

    Attributes:
        digest: SHA-256 of its bytes.
        dct, gradient: 64-bit perceptual hashes of the picture.
        width, height: in pixels, as stored.
        kind: file format and mode, `JPEG RGB`.
        deep: the kind of its numbers if they have more than 8 bits.
        ended: False for a JPEG that lacks its end marker and nothing else.
    """

    digest: bytes
    dct: int
    gradient: int
    width: int
    height: int
    kind: str
    deep: Kind | None = None
    ended: bool = True


@dataclass(frozen=True)
class Depth:
    """Images of more than 8 bits with one kind of numbers.

    Attributes:
        images: how many.
        found: least and greatest number in a sample of them, None where there are no data at all.
        no_data: numbers that stand for "no data", as far as they could be told.
        packed: the numbers that `--store.range auto` makes black and white.
        full: those that `--store.range full` does.
        share: `packed` over `full`: where it is small, `full` would show next to nothing.
    """

    images: int
    found: tuple[float, float] | None
    no_data: tuple[float, ...]
    packed: tuple[float, float]
    full: tuple[float, float]
    share: float


@dataclass(frozen=True)
class Unreadable:
    """One file that is no readable image, and why."""

    name: str
    split: str
    reason: str


@dataclass(frozen=True)
class NearPair:
    """Two pictures of which one is a copy of the other, or of a part of it, by their pixels.

    Attributes:
        whole, part: names.
        numbers: of the two among the readable images.
        mirrored: whether one is the other's mirror image.
        window: left, top, width, height of the part in the whole, shares of its sides.
        agreement: correlation of the two's details once aligned, 0 to 1.
    """

    whole: str
    part: str
    numbers: tuple[int, int]
    mirrored: bool
    window: tuple[float, float, float, float]
    agreement: float


@dataclass(frozen=True)
class Diagnosis:
    """What was found. A group is a list of names.

    Attributes:
        note: how the data was read.
        images: files in each split.
        seconds: it took.
        distance: bits within which two pictures count as nearly the same.
        unreadable: files that are no readable images.
        exact_duplicates: groups of files with the same bytes.
        near_duplicates: groups of nearly the same pictures in different files.
        exact_leaks, near_leaks: those of the groups that lie in both splits.
        near_pairs: with a run, the pairs that the near groups are joined from.
        label_conflicts: those of the exact groups that lie in several classes.
        classes: readable images of each class, by split.
        depths: images of more than 8 bits, by the kind of their numbers.
        unended: JPEGs without an end marker whose pixels are all there.
        sizes: what `size_statistics` says.
    """

    note: str
    images: dict[str, int]
    seconds: float
    distance: int
    unreadable: list[Unreadable]
    exact_duplicates: list[list[str]]
    near_duplicates: list[list[str]]
    exact_leaks: list[list[str]]
    near_leaks: list[list[str]]
    near_pairs: list[NearPair]
    label_conflicts: list[list[str]]
    classes: dict[str, dict[str, int]]
    depths: dict[str, Depth]
    unended: list[str]
    sizes: dict[str, Any]

    @property
    def serious(self) -> list[str]:
        """What makes results wrong or loses data, in phrases; empty where there is nothing of the kind."""
        found = []
        if self.unreadable:
            found.append(f"{len(self.unreadable)} unreadable image{'s' * (len(self.unreadable) > 1)}")
        if self.exact_leaks:
            found.append(f"{len(self.exact_leaks)} picture{'s' * (len(self.exact_leaks) > 1)} in both train and val")
        return found

    @property
    def imbalance(self) -> float | None:
        """Images of the largest class over those of the smallest, in train; None without classes."""
        counts = [by_split["train"] for by_split in self.classes.values()]
        return max(counts) / max(min(counts), 1) if counts else None

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON holds it."""
        values = asdict(self)
        for pair in values["near_pairs"]:
            del pair["numbers"]
        return {"format": 1, **values, "imbalance": self.imbalance, "serious": self.serious}


def size_statistics(found: list[tuple[str, Facts]]) -> dict[str, Any]:
    """Width, height and short side in pixels and the aspect (long over short side) of the readable images.

    Each with its least, 5th percentile, median, 95th percentile and greatest; then the smallest image's name
    and how many there are of each kind. Empty where there are none.
    """
    if not found:
        return {}
    sides = np.array([(max(f.width, 1), max(f.height, 1)) for _, f in found])
    columns = {
        "width": sides[:, 0],
        "height": sides[:, 1],
        "short_side": sides.min(1),
        "aspect": sides.max(1) / sides.min(1),
    }
    points = {"min": 0, "p5": 5, "median": 50, "p95": 95, "max": 100}
    statistics: dict[str, Any] = {
        name: {point: round(float(np.percentile(values, q)), 3) for point, q in points.items()}
        for name, values in columns.items()
    }
    statistics["smallest"] = found[int(sides.min(1).argmin())][0]
    statistics["kinds"] = dict(Counter(f.kind for _, f in found).most_common())
    return statistics
