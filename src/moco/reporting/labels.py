"""The plot of accuracy against the number of labels."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from moco.files import atomic
from moco.label_curves import LabelsResult
from moco.reporting.curves import BLUE, GREEN, GREY, ORANGE, SIZE_INCHES

DPI = 150
COLOURS = {"frozen": BLUE, "random": ORANGE, "pixels": GREY, "finetuned": BLUE, "scratch": GREEN}
DASHED = ("finetuned", "scratch")


def write_labels_plot(result: LabelsResult, run_title: str, path: Path) -> None:
    """Write the plot to `path` as PNG, whole or not at all."""
    with atomic(path) as file:
        labels_plot(result, run_title).savefig(file, format="png", dpi=DPI)


def labels_plot(result: LabelsResult, run_title: str) -> Figure:
    """A curve for each way of using labels, with the 95 % interval over the draws; `run_title` stands below the title.

    No global state is touched.
    """
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    shares = sorted({point.share for curve in result.curves for point in curve.points})
    for curve in result.curves:
        axes.errorbar(
            [100 * point.share for point in curve.points],
            [100 * point.mean for point in curve.points],
            yerr=[100 * (point.half_width or 0.0) for point in curve.points],
            color=COLOURS.get(curve.name, GREY),
            linestyle="--" if curve.name in DASHED else "-",
            marker="o", markersize=4, linewidth=1.8, capsize=3, label=curve.title,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks([100 * share for share in shares])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(f"labels used (% of {result.train_images:,})")
    axes.set_ylabel("top-1 accuracy on validation (%)")
    axes.set_title("Accuracy against the number of labels", loc="left", fontsize=13, fontweight="bold", pad=24)
    axes.annotate(run_title, (0, 1), (0, 8), "axes fraction", "offset points", fontsize=9, color=GREY, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=9)
    return figure
