"""A row per epoch: the table `metrics.csv`, and the line a person reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from moco.console import percent
from moco.tables import Row, Value


@dataclass(frozen=True)
class Account:
    """How one kind of training tells of itself, beside what all kinds tell.

    Attributes:
        columns: of `metrics.csv`, in their order.
        of_epoch: (the means of an epoch's statistics, the configuration) -> columns of its own.
        line: (a row, epochs in all) -> what a person reads.
        top1: what `steps.csv` calls the statistic `top1`.
        resume: the command that goes on with a run, which follows it.
    """

    columns: tuple[str, ...]
    of_epoch: Callable[[Mapping[str, float], Any], Row]
    line: Callable[[Row, int], str]
    top1: str
    resume: str


COLUMNS = (
    "epoch", "step", "samples", "seconds", "samples_per_s", "lr", "loss", "contrast_top1",
    "knn_top1", "logistic_train_top1", "logistic_val_top1",
    "loss_of_guessing", "positive_similarity", "negative_similarity", "embedding_std", "effective_rank", "queue_fill",
    "key_lag", "contrast_by_batch_statistics", "contrast_by_shuffled_statistics", "contrast_by_running_statistics",
    "feature_rank", "lidar", "view_top1",
)  # fmt: skip


_SHORT = {"knn_top1": "kNN", "val_top1": "validation"}


def score_words(column: str, value: float | int | None) -> str:
    """A score as a bar shows it; empty where it wasn't measured."""
    if value is None:
        return ""
    return f"{_SHORT.get(column, column)} {percent(value, 1) if column.endswith('top1') else f'{value:.4g}'}"


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


def _of_epoch(means: Mapping[str, float], config: Any) -> Row:
    return {
        "contrast_top1": means["top1"],
        "loss_of_guessing": math.log(1 + config.queue_size),
        "positive_similarity": means["positive"],
        "negative_similarity": means["negative"],
    }


PRETRAINING = Account(COLUMNS, _of_epoch, epoch_line, "contrast_top1", "moco pretrain --resume")
