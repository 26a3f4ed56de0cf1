"""The four plots of a run, from its two tables: pre-training loss and score, linear loss and score."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from moco.errors import UserError
from moco.files import atomic
from moco.reporting.curves import BLUE, GREEN, ORANGE, Curve, Level, draw_curves

DPI = 150
KINDS = ("png", "svg")
Table = dict[str, list[tuple[float, float]]]  # column -> (epoch, value) where it was measured
SCORE_LABEL = "top-1 accuracy (%)"


def write_plots(run_title: str, metrics: Path, linear_metrics: Path, folder: Path) -> tuple[list[Path], list[str]]:
    """Write the plots that can be drawn into `folder`: (their paths, a sentence for each that can't).

    Args:
        run_title: names the run below each title.
        metrics: the pre-training's metrics.csv, which must be there.
        linear_metrics: the linear classification's, which may be missing.

    Raises:
        UserError: a table that can't be read, or without a row.
    """
    table = read_table(metrics)
    linear = read_table(linear_metrics) if linear_metrics.is_file() else {}
    plots: dict[str, tuple[Callable[[str, Table], Figure | None], Table, str]] = {
        "pretrain_loss": (pretrain_loss, table, "no loss was recorded"),
        "pretrain_score": (pretrain_score, table, "no score was measured (without labels there is none)"),
        "linear_loss": (linear_loss, linear, "no linear classification yet"),
        "linear_score": (linear_score, linear, "no linear classification yet"),
    }
    written, missing = [], []
    for name, (make, source, why_not) in plots.items():
        figure = make(run_title, source)
        if figure is None:
            for kind in KINDS:
                (folder / f"{name}.{kind}").unlink(missing_ok=True)  # of an earlier report
            missing.append(f"{name}.png left out: {why_not}")
            continue
        for kind in KINDS:
            with atomic(folder / f"{name}.{kind}") as file:
                figure.savefig(file, format=kind, dpi=DPI)
            written.append(folder / f"{name}.{kind}")
    return written, missing


def read_table(path: Path) -> Table:
    """The measured values of every column of a metrics.csv. Raises `UserError` if it isn't one or has no row."""
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        table: Table = {}
        for row in rows:
            for name, text in row.items():
                if text:
                    table.setdefault(name, []).append((float(row["epoch"]), float(text)))
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path} can't be read as a table of metrics: {error}") from error
    if not rows:
        raise UserError(f"nothing to plot: {path} has no row yet")
    return table


def pretrain_loss(run_title: str, table: Table) -> Figure | None:
    """The contrastive loss, and the level log(1+K) of guessing among K negatives and one positive."""
    if "loss" not in table:
        return None
    guessing = table.get("loss_of_guessing")
    levels = [Level(f"{guessing[-1][1]:.3f}  guessing, log(1+K)", guessing[-1][1])] if guessing else []
    curves = [Curve("training loss", table["loss"], BLUE)]
    return draw_curves("Pre-training loss", run_title, "InfoNCE loss (nats)", curves, levels)


def pretrain_score(run_title: str, table: Table) -> Figure | None:
    """What the monitors say of the frozen backbone's features."""
    curves = _curves(
        table,
        ("knn_top1", "kNN, validation", BLUE, False),
        ("logistic_val_top1", "logistic, validation", ORANGE, False),
        ("logistic_train_top1", "logistic, train", ORANGE, True),
        percent=True,
    )
    title = "Pre-training score: classification of frozen features"
    return _scores(title, run_title, curves)


def linear_loss(run_title: str, table: Table) -> Figure | None:
    """The classifier's cross-entropy."""
    curves = _curves(
        table,
        ("loss", "train, augmented views", BLUE, True),
        ("held_out_loss", "held-out train (search)", GREEN, False),
        ("val_loss", "validation", ORANGE, False),
    )
    if not curves:
        return None
    return draw_curves("Linear classification loss", run_title, "cross-entropy (nats)", curves)


def linear_score(run_title: str, table: Table) -> Figure | None:
    """The classifier's accuracy. Where validation was measured every epoch, its best is named as such."""
    curves = _curves(
        table,
        ("train_top1", "train", BLUE, True),
        ("held_out_top1", "held-out train (search)", GREEN, False),
        ("val_top1", "validation", ORANGE, False),
        percent=True,
    )
    validation = table.get("val_top1", [])
    if len(validation) > 1:
        epoch, best = max(validation, key=lambda point: point[1])
        run_title += f"   best on validation: {100 * best:.2f} % (epoch {epoch:.0f})"
    return _scores("Linear classification score", run_title, curves)


def _scores(title: str, run_title: str, curves: list[Curve]) -> Figure | None:
    if not curves:
        return None
    return draw_curves(title, run_title, SCORE_LABEL, curves, value_text="{:.1f} %".format)


def _curves(table: Table, *wanted: tuple[str, str, str, bool], percent: bool = False) -> list[Curve]:
    """The curves whose column was measured."""
    factor = 100 if percent else 1
    return [
        Curve(name, [(epoch, factor * value) for epoch, value in table[column]], colour, dashed)
        for column, name, colour, dashed in wanted
        if column in table
    ]
