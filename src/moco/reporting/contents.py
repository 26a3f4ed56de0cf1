"""What a report's page is made of, as plain records: nothing here knows torch, models or data sets."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moco.label_curves import LabelsResult
from moco.results import Evaluation, FinetuneResult, LinearResult, other_data
from moco.tables import Row


@dataclass(frozen=True)
class RunFacts:
    """One run in figures.

    Attributes:
        name: what a person calls it.
        path: its directory, as it was given.
        config: every option by its dotted name.
        rows: a row per epoch, as in `metrics.csv`.
        environment: versions, hardware, fingerprints, command.
        state: finished, running, interrupted or failed.
        health: what the rows say in all: whether it is good (None: too early), in a word, in a sentence.
        warnings: (epoch, what the health check says) of each epoch that it finds fault with.
        linear_rows: as in `linear/metrics.csv`.
        linear, evaluation: results, where they are there.
        named: the linear classifications that were given names.
        finetuned: (name of its directory, result) of each fine-tuning of it.
        labels: accuracy against the number of labels, where it was measured.
        baseline: kNN before training, by name.
    """

    name: str
    path: str
    config: Mapping[str, Any]
    rows: list[Row]
    environment: Mapping[str, Any]
    state: str
    warnings: list[tuple[int, str]] = field(default_factory=list)
    health: tuple[bool | None, str, str] = (True, "", "")
    linear_rows: list[Row] = field(default_factory=list)
    linear: LinearResult | None = None
    named: list[LinearResult] = field(default_factory=list)
    evaluation: Evaluation | None = None
    finetuned: list[tuple[str, FinetuneResult]] = field(default_factory=list)
    labels: LabelsResult | None = None
    baseline: Mapping[str, float] = field(default_factory=dict)

    def last(self, column: str) -> float | None:
        """The newest measured value of a column, None if it never was."""
        return next((row[column] for row in reversed(self.rows) if row.get(column) is not None), None)

    def best(self, column: str) -> tuple[float, int] | None:
        """(the largest measured value of a column, its epoch), None if it never was measured."""
        found = [(value, int(row["epoch"] or 0)) for row in self.rows if (value := row.get(column)) is not None]
        return max(found, key=lambda pair: (pair[0], -pair[1])) if found else None

    def other_data(self, result: LinearResult | LabelsResult | FinetuneResult) -> str:
        """The data that a result is of, where that is known not to be the run's; else empty."""
        return str(result.data) if other_data(result.data_sha256, self.environment.get("data")) else ""

    @property
    def seconds(self) -> float:
        """Training time, monitors left out."""
        return sum(row.get("seconds") or 0.0 for row in self.rows)

    @property
    def repeat(self) -> str:
        """The command that trains it again: its effective configuration is a recipe."""
        return shlex.join(["moco", "pretrain", "--recipe", str(Path(self.path) / "config.yaml"), "--out", "runs/again"])

    @property
    def typed(self) -> str:
        """The command line that began it or went on with it last; empty for a run that Python code began."""
        words = [str(word) for word in self.environment.get("command", [])]
        ours = words and Path(words[0]).name in ("moco", "__main__.py") and words[1:2] == ["pretrain"]
        return shlex.join(["moco", *words[1:]]) if ours else ""

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What it ran with, as (name, words)."""
        return list(self._facts())

    def _facts(self) -> Iterator[tuple[str, str]]:
        known = self.environment
        yield "data", str(self.config.get("data"))
        for split, digest in (known.get("data") or {}).items():
            yield f"fingerprint, {split}", str(digest)
        yield "processor", f"{known.get('processor', '?')}, {known.get('cores', '?')} cores"
        if known.get("gpus"):
            yield "GPUs", ", ".join(known["gpus"])
        yield "precision", ", ".join(str(known[key]) for key in ("precision", "reason") if key in known)
        for key in ("threads", "arithmetic", "compile", "python", "system"):
            if key in known:
                yield key, str(known[key])
        yield "versions", ", ".join(f"{name} {number}" for name, number in known.get("versions", {}).items())
        yield "git commit", str(known.get("commit") or "not recorded")
        if known.get("run"):
            yield "run", str(known["run"])


@dataclass(frozen=True)
class Picture:
    """An image that can be shown.

    Attributes:
        thumbnail: base64 of a WebP.
        name: its path inside the data.
        split: `train` or `val`.
        label, predicted: class numbers; -1 where there is none.
    """

    thumbnail: str
    name: str
    split: str
    label: int = -1
    predicted: int = -1


@dataclass(frozen=True)
class Neighbours:
    """A query image and the training images most like it: (picture number, cosine similarity), best first."""

    query: int
    found: list[tuple[int, float]]


@dataclass(frozen=True)
class Odd:
    """An image to look at: its picture number, and why."""

    picture: int
    why: str


@dataclass(frozen=True)
class Confusion:
    """What is taken for what.

    Attributes:
        by: whose predictions: "linear classification", or "kNN, k = 20".
        images: how many were classified.
        counts: images by (true class, predicted class), of those that occur.
        pictures: picture numbers of the same, where there are pictures.
    """

    by: str
    images: int
    counts: Mapping[tuple[int, int], int]
    pictures: Mapping[tuple[int, int], list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Views:
    """Augmented views of some images, (base64 WebP, what was drawn): the evaluation view, then pairs of views."""

    rows: list[list[tuple[str, str]]]
    size_px: int


@dataclass(frozen=True)
class FeatureMaps:
    """(the view, its feature map), base64 WebP, of some images, and how many cells a side the maps have."""

    pairs: list[tuple[str, str]]
    cells: int


@dataclass(frozen=True)
class Looked:
    """What the frozen backbone of one run makes of its images.

    Attributes:
        classes: names for people, empty without labels.
        pictures: every image that is shown anywhere, once.
        dots: (picture number, x, y) of the map.
        map_by: how the map was made, "t-SNE".
        map_split: whose images are on it.
        train_images, val_images: how many the data has; 0 without a validation split.
        neighbours, untypical, suspicious: see their sections.
        knn_top1: share of the looked-at images that their neighbours name rightly, None without labels.
        views: what training saw.
        maps: feature maps as colours; empty for networks without any.
        limits: a sentence for each part that isn't of all images.
    """

    classes: list[str]
    pictures: list[Picture]
    dots: list[tuple[int, float, float]]
    map_by: str
    map_split: str
    train_images: int
    val_images: int
    neighbours: list[Neighbours]
    untypical: list[Odd]
    suspicious: list[Odd]
    knn_top1: float | None
    views: Views
    maps: FeatureMaps
    limits: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Contents:
    """All of a page.

    Attributes:
        runs: the runs, the one that pictures are of first.
        looked: its pictures; None where there are none.
        no_pictures: why there are none, a sentence.
        confusion: of the first run, where it has labels.
        classes: names for people that `confusion` is in.
        published: figures of the published run on the same data, by column of `metrics.csv` or `linear`.
        made: when, for people.
        version: of this program.
        train_images: that the first run learnt from; 0 where that isn't known.
    """

    runs: list[RunFacts]
    looked: Looked | None
    no_pictures: str
    confusion: Confusion | None
    classes: list[str]
    published: Mapping[str, float]
    made: str
    version: str
    train_images: int = 0
