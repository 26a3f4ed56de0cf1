"""The plots show the table's values, and what can't be drawn is said."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from moco.errors import UserError
from moco.reporting.curves import spread_apart
from moco.reporting.plots import (
    Table,
    linear_loss,
    linear_score,
    pretrain_loss,
    pretrain_score,
    read_table,
    write_plots,
)

GUESSING = math.log(4097)


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    rows = ["epoch,loss,loss_of_guessing,knn_top1,logistic_train_top1,logistic_val_top1"]
    for epoch in range(1, 7):
        scores = f"{0.1 * epoch},0.9,{0.11 * epoch}" if epoch % 2 == 0 else ",,"
        rows.append(f"{epoch},{8 - epoch},{GUESSING},{scores}")
    path = tmp_path / "metrics.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    path = tmp_path / "linear.csv"
    path.write_text(
        "epoch,lr,loss,train_top1,val_top1,val_loss,held_out_top1,held_out_loss,seconds\n"
        "1,9,1.5,0.7,,,0.6,1.6,\n2,1,1.2,0.8,0.75,1.1,0.7,1.3,\n"
    )
    return path


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def lines(figure: Figure) -> list[list[list[float]]]:
    """The points of each drawn curve; levels are left out."""
    drawn = [line for line in figure.axes[0].lines if line.get_linestyle() != ":"]
    return [line.get_xydata().tolist() for line in drawn]  # type: ignore[union-attr]


def test_all_four_are_written_as_png_and_svg(metrics: Path, linear: Path, tmp_path: Path) -> None:
    written, missing = write_plots("run a", metrics, linear, tmp_path / "plots")
    plots = ("pretrain_loss", "pretrain_score", "linear_loss", "linear_score")
    names = [f"{plot}.{kind}" for plot in plots for kind in ("png", "svg")]
    assert [path.name for path in written] == names and missing == []
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(names)
    assert all(path.read_text().lstrip().startswith("<?xml") for path in written[1::2])
    for path in written[::2]:
        with Image.open(path) as image:
            assert image.format == "PNG" and image.width >= 1000
            assert len(image.convert("L").getcolors() or []) > 20


def test_the_loss_has_the_level_of_guessing_and_its_last_value(metrics: Path) -> None:
    figure = pretrain_loss("run a", read_table(metrics))
    assert figure is not None
    assert lines(figure) == [[[epoch, 8.0 - epoch] for epoch in range(1, 7)]]
    level = next(line for line in figure.axes[0].lines if line.get_linestyle() == ":")
    assert level.get_ydata()[0] == pytest.approx(GUESSING)  # type: ignore[index]
    assert "2.000  training loss" in texts(figure) and f"{GUESSING:.3f}  guessing, log(1+K)" in texts(figure)
    assert "run a" in texts(figure) and figure.axes[0].get_ylabel() == "InfoNCE loss (nats)"


def test_scores_are_percent_where_they_were_measured(metrics: Path) -> None:
    figure = pretrain_score("run a", read_table(metrics))
    assert figure is not None
    assert [value for _, value in lines(figure)[0]] == pytest.approx([20, 40, 60])
    assert {"60.0 %  kNN, validation", "66.0 %  logistic, validation", "90.0 %  logistic, train"} <= {*texts(figure)}


def test_validation_once_is_a_point_and_every_epoch_names_its_best(linear: Path) -> None:
    table = read_table(linear)
    figure = linear_score("run a", table)
    assert figure is not None and [[2, 75]] in lines(figure)
    assert not any("best on validation" in text for text in texts(figure))
    table["val_top1"] = [(1.0, 0.9), (2.0, 0.8)]
    figure = linear_score("run a", table)
    assert figure is not None
    assert any("best on validation: 90.00 % (epoch 1)" in text for text in texts(figure))
    assert "80.0 %  validation" in texts(figure)
    assert linear_loss("run a", table) is not None


def test_without_labels_or_linear_it_says_so(tmp_path: Path, metrics: Path) -> None:
    metrics.write_text("epoch,loss,knn_top1\n1,6.5,\n")
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "linear_loss.png").write_bytes(b"of an earlier report")
    written, missing = write_plots("a $b$ run", metrics, tmp_path / "none.csv", tmp_path / "plots")
    assert [path.name for path in written] == ["pretrain_loss.png", "pretrain_loss.svg"]
    assert [sentence.split()[0] for sentence in missing] == [
        "pretrain_score.png",
        "linear_loss.png",
        "linear_score.png",
    ]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["pretrain_loss.png", "pretrain_loss.svg"]


@pytest.mark.parametrize(
    "content", ["", "epoch,loss\n", "epoch,loss\none,2\n", "loss\n2\n", "epoch,loss\n1,2,3\n", "\0\n1\n"]
)
def test_a_table_that_is_none_is_the_users_to_know(metrics: Path, content: str) -> None:
    metrics.write_text(content)
    with pytest.raises(UserError, match=r"metrics\.csv"):
        read_table(metrics)


def test_nothing_at_all_draws_nothing() -> None:
    empty: Table = {}
    assert [make("", empty) for make in (pretrain_loss, pretrain_score, linear_loss, linear_score)] == [None] * 4


@pytest.mark.parametrize("heights", [[0.1, 0.5, 0.9], [0.5, 0.5, 0.5], [0.97, 0.98, 1.0], [0.0]])
def test_labels_move_apart_and_stay_on_the_page(heights: list[float]) -> None:
    moved = spread_apart(heights, 0.06)
    assert all(b - a >= 0.06 - 1e-9 for a, b in pairwise(moved)) and moved[-1] <= 1
    if all(b - a >= 0.06 for a, b in pairwise(heights)):
        assert moved == heights
