"""Drawing: a handful of curves on one pair of axes, each with its last value and its name at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's palette: told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
SIZE_INCHES = (8.0, 4.6)
LABEL_GAP = 0.06  # of the axes' height, between two labels at the right edge
FEW_POINTS = 30  # up to here every point gets a marker


@dataclass(frozen=True)
class Curve:
    """What was measured: `points` of (epoch, value), where it was."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Level:
    """A value to compare with, drawn as a dotted line."""

    name: str
    value: float


def draw_curves(
    title: str,
    subtitle: str,
    y_label: str,
    curves: Sequence[Curve],
    levels: Sequence[Level] = (),
    value_text: Callable[[float], str] = "{:.3f}".format,
) -> Figure:
    """A figure of `curves` over epochs; `value_text` writes the values at their ends. No global state is touched."""
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    for curve in curves:
        x, y = zip(*curve.points)
        axes.plot(
            x, y, color=curve.colour, linewidth=1.8, linestyle="--" if curve.dashed else "-",
            marker="o" if len(x) <= FEW_POINTS else "", markersize=4,
        )  # fmt: skip
    for level in levels:
        axes.axhline(level.value, color=GREY, linestyle=":", linewidth=1.4)
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", pad=24)
    axes.annotate(subtitle, (0, 1), (0, 8), "axes fraction", "offset points", fontsize=9, color=GREY, parse_math=False)
    axes.set_xlabel("epoch")
    axes.set_ylabel(y_label)
    _tidy(axes, last_epoch=max(epoch for curve in curves for epoch, _ in curve.points))
    ends = [(c.points[-1][1], f"{value_text(c.points[-1][1])}  {c.name}", c.colour) for c in curves]
    _label_right(axes, ends + [(level.value, level.name, GREY) for level in levels])
    return figure


def _tidy(axes: Axes, last_epoch: float) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(y=0.12)
    axes.set_xlim(0, 1.02 * last_epoch)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def _label_right(axes: Axes, labels: list[tuple[float, str, str]]) -> None:
    """(value, text, colour) each, right of the axes at the value's height, moved apart where two would overlap."""
    low, high = axes.get_ylim()
    labels = sorted(labels)
    heights = spread_apart([(value - low) / (high - low) for value, _, _ in labels], LABEL_GAP)
    for height, (_, text, colour) in zip(heights, labels):
        axes.annotate(
            text,
            (1.015, height),
            xycoords="axes fraction",
            color=colour,
            fontsize=9,
            va="center",
            annotation_clip=False,
        )


def spread_apart(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending `heights` moved as little as needed to be `gap` apart, and not above 1."""
    moved: list[float] = []
    for height in heights:
        moved.append(height if not moved else max(height, moved[-1] + gap))
    ceiling = 1.0
    for index in range(len(moved) - 1, -1, -1):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - gap
    return moved
