"""A row per epoch: the table `metrics.csv`, TensorBoard, and the line a person reads."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

from moco.console import percent
from moco.errors import UserError, in_a_line
from moco.files import write_text

Value = float | int | None
Row = dict[str, Value]
COLUMNS = (
    "epoch", "step", "samples", "seconds", "samples_per_s", "lr", "loss", "contrast_top1",
    "knn_top1", "logistic_train_top1", "logistic_val_top1",
    "loss_of_guessing", "positive_similarity", "negative_similarity", "embedding_std", "effective_rank", "queue_fill",
)  # fmt: skip


def write_csv(path: Path, rows: list[Row], columns: tuple[str, ...] = COLUMNS) -> None:
    """The whole table, replaced at once; what wasn't measured is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([cell(row.get(column)) for column in columns])
    write_text(path, text.getvalue())


def read_csv(path: Path) -> list[Row]:
    """The rows that `write_csv` wrote; None where a cell is empty. Raises `UserError` for a file that isn't a table."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [{name: _value(text) for name, text in row.items()} for row in csv.DictReader(file, strict=True)]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path} can't be read as a table of metrics: {in_a_line(error)}") from error


def _value(text: str) -> Value:
    if not text:
        return None
    return int(text) if text.lstrip("-").isdecimal() else float(text)


def cell(value: Value) -> str:
    """A value as a table holds it: empty if it wasn't measured."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.8g}"


def epoch_line(row: Mapping[str, Value], epochs: int) -> str:
    """What happened in an epoch, in one line."""
    parts = [
        f"epoch {row['epoch']}/{epochs}",
        f"loss {row['loss']:.3f} (guessing {row['loss_of_guessing']:.3f})",
        f"contrast top-1 {percent(row['contrast_top1'], 1)}",
    ]
    if row.get("knn_top1") is not None:
        parts.append(f"kNN {percent(row['knn_top1'], 1)}")
    if row.get("logistic_val_top1") is not None:
        parts.append(
            f"logistic {percent(row['logistic_train_top1'], 1)} train, {percent(row['logistic_val_top1'], 1)} val"
        )
    parts.append(f"{row['samples_per_s']:,.0f} samples/s")
    return "  ".join(parts)


class TensorBoard:
    """Scalars of each row under `folder`; a resumed run writes on."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        try:
            self._writer = SummaryWriter(str(folder))
        except OSError as error:
            raise UserError(f"can't write {folder}: {in_a_line(error)}") from error

    def write(self, row: Row) -> None:
        """Every measured value of `row` at its epoch."""
        for name, value in row.items():
            if name != "epoch" and value is not None and math.isfinite(value):
                self._writer.add_scalar(name, value, int(row["epoch"] or 0))
        self._writer.flush()

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Measured values at a step, under `step/`."""
        for name, value in values.items():
            if math.isfinite(value):
                self._writer.add_scalar(f"step/{name}", value, step)

    def close(self) -> None:
        self._writer.close()
