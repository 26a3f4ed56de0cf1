"""What came out, as typed records that write and read their own JSON: nobody else knows its keys."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from moco.errors import UserError
from moco.files import read_json, write_text

DENSE_CLASSES = 100  # up to here `evaluation.json` has the whole confusion matrix, above the pairs that occur
Record = TypeVar("Record")


def other_data(found: Mapping[str, str], run: Mapping[str, str] | None) -> bool:
    """Whether fingerprints `found` are of other data than those of a `run`; False where either isn't known."""
    return bool(run and found) and found != run


@dataclass(frozen=True)
class LinearResult:
    """`linear/result.json`: how a linear classification ended, and how it was come by.

    Attributes:
        protocol: `cached` or `sgd`.
        checkpoint, step, epoch: what it was trained on.
        backbone_sha256: of the backbone's tensors.
        options: as they were used, by name.
        lr, weight_decay: of the reported weights.
        loss, train_top1, val_top1, val_loss: after the last epoch; losses in nats, shares from 0 to 1, all images.
        train_images, val_images: how many.
        classes: their names, in label order.
        data: what was classified, None for a run without data of its own.
        data_sha256: fingerprint of each split.
        seconds: how long it took.
        proof: that two tensors trained and the backbone did not.
        held_out_top1, held_out_images, grid: `cached`: the winner's share, on so many images, and every head's.
        best_on_validation_top1, best_on_validation_epoch: `sgd`: chosen by validation, said as such.
        environment: versions and hardware.
        run: the number of the run that it is of, None in those written before this was kept.
        name: of this classification, None for the run's own.
    """

    protocol: str
    checkpoint: str
    step: int
    epoch: int
    backbone_sha256: str
    options: dict[str, Any]
    lr: float
    weight_decay: float
    loss: float
    train_top1: float
    val_top1: float
    val_loss: float
    train_images: int
    val_images: int
    classes: list[str]
    data: str | None
    seconds: float
    proof: dict[str, Any]
    data_sha256: dict[str, str] = field(default_factory=dict)
    held_out_top1: float | None = None
    held_out_images: int | None = None
    grid: list[dict[str, float]] | None = None
    best_on_validation_top1: float | None = None
    best_on_validation_epoch: int | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    run: str | None = None
    name: str | None = None

    def save(self, path: Path) -> None:
        """Write it, whole or not at all; what doesn't apply is left out."""
        values = {name: value for name, value in asdict(self).items() if value is not None or name == "data"}
        write_text(path, json.dumps(values, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> LinearResult:
        """Read it. Raises `UserError` if it is missing, damaged, or something else."""
        return _record(cls, read_json(path, "linear result"), path)


@dataclass(frozen=True)
class SplitScores:
    """A classifier's scores on one split.

    Attributes:
        images: how many were scored: all of them.
        loss: mean cross-entropy, in nats.
        classes: their names, C of them.
        confusion: (true class, predicted class, images) for each pair that occurs, ascending.
    """

    images: int
    loss: float
    classes: list[str]
    confusion: list[tuple[int, int, int]]

    @cached_property
    def correct(self) -> int:
        """Images classified as what they are."""
        return sum(count for true, predicted, count in self.confusion if true == predicted)

    @property
    def top1(self) -> float:
        """Share of the images classified as what they are, from 0 to 1."""
        return self.correct / self.images

    @cached_property
    def class_images(self) -> list[int]:
        """Images of each class."""
        found: Counter[int] = Counter()
        for true, _, count in self.confusion:
            found[true] += count
        return [found[number] for number in range(len(self.classes))]

    @cached_property
    def class_top1(self) -> list[float | None]:
        """top-1 within each class; None for a class without images."""
        right = {true: count for true, predicted, count in self.confusion if true == predicted}
        return [right.get(number, 0) / n if n else None for number, n in enumerate(self.class_images)]

    def matrix(self) -> list[list[int]]:
        """(C, C), images by true class (row) and predicted class (column)."""
        rows = [[0] * len(self.classes) for _ in self.classes]
        for true, predicted, count in self.confusion:
            rows[true][predicted] = count
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Plain values: the confusion matrix up to `DENSE_CLASSES` classes, the pairs that occur above."""
        dense = len(self.classes) <= DENSE_CLASSES
        confusion = {"confusion": self.matrix()} if dense else {"confusion_pairs": [list(c) for c in self.confusion]}
        return {
            "images": self.images,
            "correct": self.correct,
            "loss": self.loss,
            "top1": self.top1,
            "class_top1": dict(zip(self.classes, self.class_top1)),
            "class_images": dict(zip(self.classes, self.class_images)),
            **confusion,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SplitScores:
        """The record that `as_dict` gave."""
        pairs = values.get("confusion_pairs")
        if pairs is None:
            rows = values["confusion"]
            pairs = [(t, p, count) for t, row in enumerate(rows) for p, count in enumerate(row) if count]
        return cls(values["images"], values["loss"], [*values["class_top1"]], [(t, p, n) for t, p, n in pairs])


@dataclass(frozen=True)
class Evaluation:
    """`evaluation.json`: a classifier on all training and validation images.

    Attributes:
        checkpoint, step, epoch: the backbone's.
        protocol: the classifier's.
        data: what was classified, None for a run without data of its own.
        classes: their names, in label order; `class_names` are those for people.
        train, val: the scores.
        environment: versions and hardware.
    """

    checkpoint: str
    step: int
    epoch: int
    protocol: str
    data: str | None
    classes: list[str]
    class_names: list[str]
    train: SplitScores
    val: SplitScores
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def splits(self) -> dict[str, SplitScores]:
        """Both, by name."""
        return {"train": self.train, "val": self.val}

    def save(self, path: Path) -> None:
        """Write it, whole or not at all: a value a line, or without line breaks where there are very many."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {name: scores.as_dict() for name, scores in self.splits.items()}
        indent = 1 if len(self.classes) <= DENSE_CLASSES else None
        write_text(path, json.dumps(values, indent=indent) + "\n")

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Read it. Raises `UserError` if it is missing, damaged, or something else."""
        values = read_json(path, "evaluation")
        try:
            values = values | {split: SplitScores.from_dict(values[split]) for split in ("train", "val")}
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise UserError(f"{path} is no evaluation that this version of moco reads") from error
        return _record(cls, values, path)


@dataclass(frozen=True)
class FinetuneResult:
    """`result.json` of a fine-tuning: how it ended, on all validation images.

    Attributes:
        run, checkpoint, run_step: the pre-training run's absolute path, which of its checkpoints, and of which step.
        source: where the weights began: `run`, or `scratch`.
        options: as they were used, by name.
        images: labelled images learnt from; `class_images` of each class.
        val_images: images that the scores are of.
        epochs, steps: trained.
        views_top1: of the last epoch's augmented training views, in training mode.
        last: the scores after the last epoch.
        best: those of the epoch with the highest validation top-1, `best_epoch`: chosen on validation, optimistic.
        data, data_sha256: what was learnt, and the fingerprint of each split.
        classes: their names, in label order; `class_names` are those for people.
        environment: versions and hardware.
    """

    run: str
    checkpoint: str
    run_step: int
    source: str
    options: dict[str, Any]
    images: int
    class_images: list[int]
    val_images: int
    epochs: int
    steps: int
    views_top1: float
    last: SplitScores
    best: SplitScores
    best_epoch: int
    data: str | None
    data_sha256: dict[str, str]
    classes: list[str]
    class_names: list[str]
    environment: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {"last": self.last.as_dict(), "best": self.best.as_dict()}
        write_text(path, json.dumps(values, indent=1 if len(self.classes) <= DENSE_CLASSES else None) + "\n")

    @classmethod
    def load(cls, path: Path) -> FinetuneResult:
        """Read it. Raises `UserError` if it is missing, damaged, or something else."""
        values = read_json(path, "fine-tuning's result")
        try:
            values = values | {name: SplitScores.from_dict(values[name]) for name in ("last", "best")}
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise UserError(f"{path} is no FinetuneResult that this version of moco reads") from error
        return _record(cls, values, path)


def _record(record: type[Record], values: Any, path: Path) -> Record:
    """`record` of the JSON `values`; names that it doesn't know are another version's, and passed over."""
    known = {f.name for f in fields(record)}  # type: ignore[arg-type]
    try:
        return record(**{name: value for name, value in values.items() if name in known})
    except (TypeError, AttributeError) as error:
        raise UserError(f"{path} is no {record.__name__} that this version of moco reads") from error
