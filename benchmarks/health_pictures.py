"""Draws what docs/health.md shows of each sign: the run that taught it beside a sound one, from the recorded rows.

python benchmarks/health_pictures.py [--json benchmarks/results/2026-11-25-health.json] [--out docs/images]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

HERE = Path(__file__).parent
SOUND = "sound"
PICTURES = {  # file: the runs that show the sign
    "collapse": ["lr 3", "constant images"],
    "guessing": ["lr 0", "lr 0.0001"],
    "lr-too-high": ["lr 30", "Muon, lr 1"],
    "temperature": ["T 0.001", "T 10"],
    "too-easy": ["identical views"],
}
PANELS = {  # title: column, or its share of another
    "loss / guessing": ("loss", "loss_of_guessing"),
    "contrast_top1": ("contrast_top1", None),
    "embedding_std": ("embedding_std", None),
    "effective_rank": ("effective_rank", None),
}
COLOURS = ("#c0392b", "#d68910")


def curve(rows: list[dict[str, Any]], column: str, over: str | None) -> tuple[list[int], list[float]]:
    """Epochs and values, where there are any."""
    kept = [row for row in rows if row.get(column) is not None]
    return [row["epoch"] for row in kept], [row[column] / (row[over] if over else 1) for row in kept]


def panel(axes: Axes, title: str, runs: dict[str, Any], names: list[str]) -> None:
    column, over = PANELS[title]
    axes.plot(*curve(runs[SOUND]["rows"], column, over), color="#7f8c8d", marker="o", markersize=3, label="a sound run")
    for name, colour in zip(names, COLOURS):
        axes.plot(*curve(runs[name]["rows"], column, over), color=colour, marker="o", markersize=3, label=name)
    if over:
        axes.axhline(1, color="#bdc3c7", linewidth=0.8, linestyle="--")
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("epoch", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=HERE / "results" / "2026-11-25-health.json")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "images")
    args = parser.parse_args()
    runs = json.loads(args.json.read_text())["runs"]
    for file, names in PICTURES.items():
        figure, all_axes = plt.subplots(1, len(PANELS), figsize=(10, 2.2), layout="constrained")
        for axes, title in zip(all_axes, PANELS):
            panel(axes, title, runs, names)
        handles, labels = all_axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
        figure.savefig(args.out / f"health-{file}.png", dpi=110)
        plt.close(figure)


if __name__ == "__main__":
    main()
