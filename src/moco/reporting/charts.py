"""The curves of several runs as plotly figures: one line a run, or mean and spread where runs differ by seed only."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moco.reporting.contents import RunFacts
from moco.tables import Row

# Each is told from a white and from a nearly black page (3:1 and more).
COLOURS = (
    "#3b82c4", "#c8741f", "#2e9e6b", "#c2518f", "#8a6fd1", "#c0483d", "#6f8f2a", "#1b98a0", "#a07a4a", "#7d8790",
)  # fmt: skip
GREY = "#7d8790"
FONT = {"family": "system-ui, sans-serif", "size": 12}
FEW_TICKS = 8  # epochs, up to which each has a tick
FEW_POINTS = 30  # up to here every point gets a marker
SAME_WHATEVER = ("seed", "store.cache", "checkpoint.", "runtime.device", "runtime.threads", "data")
Figure = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """What one chart shows.

    Attributes:
        name: for the page's HTML.
        title, unit: for people.
        columns: (column of the table, word beside the run's name), the first drawn solid, the others dashed.
        percent: whether values are shares.
        of_linear: whether the table is the linear classification's.
    """

    name: str
    title: str
    unit: str
    columns: tuple[tuple[str, str], ...]
    percent: bool = False
    of_linear: bool = False


_LOGISTIC = (("logistic_val_top1", "validation"), ("logistic_train_top1", "train"))
_SIMILARITY = (("positive_similarity", "positive"), ("negative_similarity", "negative"))
_LEAK = (
    ("contrast_by_batch_statistics", "the batch's"),
    ("contrast_by_shuffled_statistics", "another batch's"),
    ("contrast_by_running_statistics", "the running ones"),
)
_PROXIES = (("feature_rank", "RankMe"), ("lidar", "LiDAR"))
_LINEAR_SCORE = (("val_top1", "validation"), ("train_top1", "train"), ("held_out_top1", "held-out train"))
_LINEAR_LOSS = (("val_loss", "validation"), ("loss", "train"), ("held_out_loss", "held-out train"))
TOP1 = "top-1 (%)"
CHARTS = (
    Chart("loss", "Loss", "InfoNCE (nats)", (("loss", ""),)),
    Chart("knn", "kNN on validation", TOP1, (("knn_top1", ""),), percent=True),
    Chart("logistic", "Logistic regression", TOP1, _LOGISTIC, percent=True),
    Chart("contrast", "Positives found among the queue", TOP1, (("contrast_top1", ""),), percent=True),
    Chart("similarity", "Similarity of positives and negatives", "mean cosine", _SIMILARITY),
    Chart("rank", "Effective rank of the embeddings", "dimensions", (("effective_rank", ""),)),
    Chart("spread", "Spread of the embeddings (1: a uniform sphere, 0: a point)", "", (("embedding_std", ""),)),
    Chart("leak", "Positives found by either statistics of batch-norm (a gap is a leak)", TOP1, _LEAK, percent=True),
    Chart("proxies", "Without labels: rank of the features", "dimensions", _PROXIES),
    Chart("agreement", "Without labels: views of an image found again", TOP1, (("view_top1", ""),), percent=True),
    Chart("lag", "How far the keys' encoder lies behind", "share of its length", (("key_lag", ""),)),
    Chart("lr", "Learning rate", "", (("lr", ""),)),
    Chart("speed", "Throughput", "samples/s", (("samples_per_s", ""),)),
    Chart("linear_score", "Linear classification", TOP1, _LINEAR_SCORE, percent=True, of_linear=True),
    Chart("linear_loss", "Linear classification: loss", "cross-entropy (nats)", _LINEAR_LOSS, of_linear=True),
)
# Columns that have a chart, or need none.
_KNOWN = {column for chart in CHARTS if not chart.of_linear for column, _ in chart.columns}
_KNOWN |= {"epoch", "step", "samples", "seconds", "loss_of_guessing", "queue_fill"}
_PUBLISHED = {"logistic": "logistic_val_top1", "linear_score": "linear", "knn": "knn_top1"}


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing that matters but their seed; `name` is theirs together."""

    name: str
    runs: list[RunFacts]


def grouped(runs: Sequence[RunFacts]) -> list[Group]:
    """`runs` by everything in their configuration and data but the seed, in the order of the first of each."""
    found: dict[str, list[RunFacts]] = {}
    for run in runs:
        kept = sorted((k, repr(v)) for k, v in run.config.items() if not k.startswith(SAME_WHATEVER))
        found.setdefault(repr((kept, run.environment.get("data"))), []).append(run)
    return [Group(members[0].name if len(members) == 1 else _together(members), members) for members in found.values()]


def _together(runs: list[RunFacts]) -> str:
    seeds = len({repr(run.config.get("seed")) for run in runs})
    of = f"{seeds} seeds" if seeds == len(runs) else f"{len(runs)} runs, {seeds} seed{'s' * (seeds > 1)}"
    return f"{', '.join(run.name for run in runs)} (mean of {of})"


def figures(runs: Sequence[RunFacts], published: Mapping[str, float]) -> dict[str, tuple[str, Figure]]:
    """(title, plotly figure) of every chart that there is something to draw for, by its name."""
    groups, drawn = grouped(runs), {}
    for chart in [*CHARTS, *_added(runs)]:
        traces = [*_curves(chart, groups), *_levels(chart, runs, published)]
        if any(trace["meta"] == "curve" for trace in traces):
            drawn[chart.name] = (chart.title, {"data": traces, "layout": _layout(chart, traces)})
    return drawn


def _added(runs: Sequence[RunFacts]) -> list[Chart]:
    """A chart for each column that somebody's own evaluator wrote."""
    names = dict.fromkeys(name for run in runs for row in run.rows for name in row if name not in _KNOWN)
    return [Chart(f"own-{n}", name, "", ((name, ""),)) for n, name in enumerate(names)]


def _curves(chart: Chart, groups: list[Group]) -> Iterable[Figure]:
    for number, group in enumerate(groups):
        colour = COLOURS[number % len(COLOURS)]
        for place, (column, word) in enumerate(chart.columns):
            tables = [run.linear_rows if chart.of_linear else run.rows for run in group.runs]
            points = _mean(tables, column, 100.0 if chart.percent else 1.0)
            if not points:
                continue
            x, y, spread = zip(*points)
            name = ", ".join(filter(None, (group.name, word)))
            if len(group.runs) > 1:
                yield _band(x, y, spread, colour, name)
            yield {
                "type": "scatter", "meta": "curve", "name": html.escape(name, quote=False),
                "x": [*x], "y": [*map(_short, y)],
                "mode": "lines+markers" if len(x) <= FEW_POINTS else "lines",
                "line": {"color": colour, "width": 2, "dash": ("solid", "dash", "dot")[place]},
                "hovertemplate": "%{y:.4g}",
            }  # fmt: skip


def _mean(tables: list[list[Row]], column: str, factor: float) -> list[tuple[float, float, float]]:
    """(epoch, mean, standard deviation) where every table has a finite value; deviation 0 for one table."""
    found: dict[float, list[float]] = {}
    for rows in tables:
        for row in rows:
            value = row.get(column)
            if value is not None and math.isfinite(value):
                found.setdefault(float(row["epoch"] or 0), []).append(factor * value)
    return [
        (epoch, statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
        for epoch, values in sorted(found.items())
        if len(values) == len(tables)
    ]


def _band(x: tuple[float, ...], y: tuple[float, ...], spread: tuple[float, ...], colour: str, name: str) -> Figure:
    """The mean plus and minus a standard deviation, filled."""
    above, below = [m + s for m, s in zip(y, spread)], [m - s for m, s in zip(y, spread)]
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return {
        "type": "scatter", "meta": "spread", "name": html.escape(f"{name}, ± standard deviation", quote=False),
        "x": [*x, *reversed(x)], "y": [*map(_short, [*above, *reversed(below)])], "mode": "lines", "fill": "toself",
        "fillcolor": f"rgba({red},{green},{blue},0.2)", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False,
    }  # fmt: skip


def _levels(chart: Chart, runs: Sequence[RunFacts], published: Mapping[str, float]) -> Iterable[Figure]:
    levels: list[tuple[str, float]] = []
    if chart.name == "loss":
        values = {run.last("loss_of_guessing") for run in runs}
        levels += [("guessing, log(1+K)", value) for value in values if value is not None and len(values) == 1]
    if chart.name == "knn":
        before = runs[0].baseline
        words = (("raw pixels", "raw_pixels_knn_top1"), ("untrained backbone", "random_backbone_knn_top1"))
        levels += [(word, 100 * before[key]) for word, key in words if key in before]
    if (value := published.get(_PUBLISHED.get(chart.name, ""))) is not None:
        levels.append(("the published run at its end", 100 * value))
    table = [row for run in runs for row in (run.linear_rows if chart.of_linear else run.rows)]
    end = max((float(row["epoch"] or 0) for row in table), default=1.0)
    for number, (name, value) in enumerate(levels):
        yield {
            "type": "scatter", "meta": "level", "name": f"{name}: {value:.4g}", "x": [0, end], "y": [_short(value)] * 2,
            "mode": "lines", "line": {"color": GREY, "width": 1.5, "dash": ("dot", "dashdot", "longdash")[number % 3]},
            "hoverinfo": "skip",
        }  # fmt: skip


def _layout(chart: Chart, traces: list[Figure]) -> Figure:
    lines = sum(trace["meta"] != "spread" for trace in traces)
    few = max(x for trace in traces for x in trace["x"]) <= FEW_TICKS
    return {
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 56, "r": 12, "t": 8, "b": 40}, "height": 260 + 19 * (lines if lines > 1 else 0),
        "xaxis": {"title": {"text": "epoch", "standoff": 6}, "rangemode": "tozero", "zeroline": False}
        | {"spikecolor": GREY}
        | ({"dtick": 1} if few else {}),
        "yaxis": {"title": {"text": chart.unit}, "zeroline": False, },
        "showlegend": lines > 1,
        "legend": {"orientation": "h", "y": -0.26, "yanchor": "top", "entrywidthmode": "fraction", "entrywidth": 1},
        "hovermode": "x unified", "hoverlabel": {"bgcolor": "#222831", "font": {"color": "#ffffff"}},
        "font": FONT,
    }  # fmt: skip


def _short(value: float) -> float:
    return float(f"{value:.6g}")


LABELS = "labels"  # the chart of accuracy against the number of labels
_DASHES = {"frozen": "solid", "finetuned": "solid", "scratch": "dash", "random": "dash", "pixels": "dot"}


def labels_figure(runs: Sequence[RunFacts]) -> Figure | None:
    """Accuracy against the share of the labels, with 95 % intervals over the draws; None where nobody measured it."""
    traces: list[Figure] = []
    measured = [run for run in runs if run.labels is not None]
    for run in measured:
        assert run.labels is not None
        for curve in run.labels.curves:
            name = curve.title if len(measured) == 1 else f"{run.name}: {curve.title}"
            colour = COLOURS[len(traces) % len(COLOURS)]
            traces.append({
                "type": "scatter", "meta": "curve", "mode": "lines+markers", "name": html.escape(name, quote=False),
                "x": [_short(100 * point.share) for point in curve.points],
                "y": [_short(100 * point.mean) for point in curve.points],
                "error_y": {"type": "data", "array": [_short(100 * (p.half_width or 0.0)) for p in curve.points],
                            "color": colour, "thickness": 1.2, "width": 3},
                "customdata": [point.images for point in curve.points],
                "line": {"color": colour, "width": 2, "dash": _DASHES.get(curve.name, "solid")},
                "hovertemplate": "%{y:.4g} ± %{error_y.array:.2g} (%{customdata} images)",
            })  # fmt: skip
    if not traces:
        return None
    shares = sorted({x for trace in traces for x in trace["x"]})
    layout = _layout(Chart(LABELS, "", TOP1, ()), traces)
    layout["xaxis"] = {
        "type": "log", "title": {"text": "labels used (%)", "standoff": 6}, "tickvals": shares,
        "ticktext": [f"{share:g}" for share in shares], "zeroline": False, "spikecolor": GREY,
    }  # fmt: skip
    return {"data": traces, "layout": layout}


def map_figure(dots: Sequence[tuple[int, float, float]], labels: Sequence[int], classes: Sequence[str]) -> Figure:
    """The embedding map: `dots` (picture number, x, y) coloured by `labels` (one a dot, -1 without)."""
    traces: dict[int, Figure] = {}
    many = len(classes) > 2 * len(COLOURS)
    for (picture, x, y), label in zip(dots, labels):
        key = label if not many else label % len(COLOURS)
        if key not in traces:
            name = classes[label] if 0 <= label < len(classes) else "images"
            traces[key] = {
                "type": "scatter", "mode": "markers", "name": html.escape(name, quote=False), "x": [], "y": [],
                "customdata": [], "hoverinfo": "none",
                "marker": {"size": 6, "opacity": 0.8, "color": COLOURS[key % len(COLOURS)],
                           "symbol": "circle" if key < len(COLOURS) else "diamond"},
            }  # fmt: skip
        for axis, value in (("x", round(x, 3)), ("y", round(y, 3)), ("customdata", picture)):
            traces[key][axis].append(value)
    bare = {"showgrid": False, "zeroline": False, "showticklabels": False}
    legend = bool(classes) and not many
    layout = {
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "margin": {"l": 4, "r": 4, "t": 4, "b": 4},
        "height": 540, "xaxis": bare, "yaxis": bare, "hovermode": "closest", "showlegend": legend,
        "legend": {"orientation": "h", "y": -0.02, "yanchor": "top"}, "font": FONT,
    }  # fmt: skip
    return {"data": [traces[key] for key in sorted(traces)], "layout": layout}
