"""How the label-free proxies rank epochs and runs, against kNN: Spearman's rank correlation over recorded rows.

    python benchmarks/proxies.py benchmarks/results/2026-11-25-health.json

Runs on images or views that don't differ are left out: kNN has nothing to find there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy.stats import spearmanr

COLUMNS = ("view_top1", "feature_rank", "lidar", "effective_rank", "loss")
LEFT_OUT = ("constant images", "identical views")


def correlation(rows: list[dict[str, Any]], column: str) -> float:
    """With kNN; not a number where one of them doesn't change."""
    return float(spearmanr([row[column] for row in rows], [row["knn_top1"] for row in rows]).statistic)


def main() -> None:
    runs = json.loads(Path(sys.argv[1]).read_text())["runs"]
    measured = {
        name: [row for row in run["rows"] if "knn_top1" in row and "lidar" in row]
        for name, run in runs.items()
        if name not in LEFT_OUT
    }
    measured = {name: rows for name, rows in measured.items() if len(rows) > 1}
    together = [row for rows in measured.values() for row in rows]
    last = [rows[-1] for rows in measured.values()]
    print(f"{len(measured)} runs, {len(together)} measurements; together, within a run (mean), last epochs")
    for column in COLUMNS:
        moving = [rows for rows in measured.values() if len({r[column] for r in rows}) > 1]
        within = fmean(correlation(rows, column) for rows in moving if len({r["knn_top1"] for r in rows}) > 1)
        print(f"{column:16} {correlation(together, column):+.2f} {within:+.2f} {correlation(last, column):+.2f}")


if __name__ == "__main__":
    main()
