"""The page: one HTML file that holds everything it shows, and asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from typing import Any

from moco.console import percent
from moco.reporting.charts import LABELS, figures, labels_figure, map_figure
from moco.reporting.contents import Confusion, Contents
from moco.reporting.summary import duration, sentences, verdict

GENERATOR = "moco report"  # in the page's head: only a file that has it is ever replaced
MOST_CLASSES = 24  # of a confusion matrix as a table; above, the commonest mistakes are listed
MOST_MISTAKES = 60
MOST_IN_CELL = 48  # pictures that a cell opens


def render(contents: Contents) -> str:
    """The page as text. Whatever a user named is escaped."""
    import jinja2

    script, library = _file("template", "page.js"), _file("vendor", "plotly-basic.min.js")
    charts = figures(contents.runs, contents.published)
    labels = labels_figure(contents.runs)
    drawn = {f"chart-{name}": figure for name, (_, figure) in charts.items()}
    drawn |= {} if labels is None else {f"chart-{LABELS}": labels}
    data = {"charts": drawn, **_pictures(contents)}
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: _file("template", name)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "duration": duration}
    looked, first = contents.looked, contents.runs[0]
    text = environment.get_template("page.html").render(
        c=contents,
        first=first,
        looked=looked,
        generator=GENERATOR,
        sentences=[sentences(run, contents.train_images if run is first else 0) for run in contents.runs],
        verdicts=[verdict(run) for run in contents.runs],
        charts=[(f"chart-{name}", title) for name, (title, _) in charts.items()],
        labels_chart=None if labels is None else f"chart-{LABELS}",
        confusion=None if contents.confusion is None else _confusion(contents.confusion, contents.classes),
        options=_options(contents),
        style=_safe(_file("template", "page.css")),
        library=_safe(library),
        script=_safe(script),
        policy=_policy(library, script),
        data=_safe(_json(data)),
    )
    return text.encode("utf-8", "backslashreplace").decode()  # names that are no text keep their bytes in sight


def _file(*where: str) -> str:
    return resources.files("moco").joinpath("reporting", *where).read_text(encoding="utf-8")


def _safe(text: str) -> Any:
    """Text of this program's own that goes into the page as it is."""
    import markupsafe

    return markupsafe.Markup(text)


def _json(value: Any) -> str:
    """JSON that can stand in a <script>: no `<` is left in it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _policy(*scripts: str) -> str:
    """What a browser may do with the page: run these scripts and show embedded pictures. Nothing is fetched."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    nothing = "default-src 'none'; base-uri 'none'; form-action 'none'"
    return f"{nothing}; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"


def _pictures(contents: Contents) -> dict[str, Any]:
    """What the page's script shows on demand: thumbnails, whose they are, and which a cell opens."""
    looked, classes = contents.looked, contents.classes
    if looked is None:
        return {"pictures": [], "classes": [], "cells": {}, "map": None}
    cells = {} if contents.confusion is None else contents.confusion.pictures
    labels = [looked.pictures[picture].label for picture, _, _ in looked.dots]
    return {
        "pictures": [[p.thumbnail, p.name, p.split, p.label, p.predicted] for p in looked.pictures],
        "classes": classes,
        "cells": {f"{true}-{predicted}": found[:MOST_IN_CELL] for (true, predicted), found in cells.items()},
        "map": map_figure(looked.dots, labels, classes),
    }


def _confusion(confusion: Confusion, classes: list[str]) -> dict[str, Any]:
    """The matrix, or its commonest mistakes where it is too wide, and accuracy by class, as the template shows them."""
    counts, numbers = confusion.counts, range(len(classes))
    totals = dict.fromkeys(numbers, 0)
    for (true, _), count in counts.items():
        totals[true] += count
    right = {n: counts.get((n, n), 0) for n in numbers}
    mistakes = sorted(((count, pair) for pair, count in counts.items() if pair[0] != pair[1]), reverse=True)
    return {
        "by": confusion.by,
        "images": confusion.images,
        "top1": sum(right.values()) / max(confusion.images, 1),
        "openable": {pair for pair, found in confusion.pictures.items() if found},
        "matrix": [[counts.get((t, p), 0) for p in numbers] for t in numbers] if len(classes) <= MOST_CLASSES else None,
        "totals": totals,
        "mistakes": [(count, *pair) for count, pair in mistakes[:MOST_MISTAKES]],
        "by_class": sorted((right[n] / totals[n], n, totals[n]) for n in numbers if totals[n]),
        "most_in_cell": MOST_IN_CELL,
    }


def _options(contents: Contents) -> list[tuple[str, list[str], bool]]:
    """(option, its value in each run, whether they differ)."""
    names = dict.fromkeys(name for run in contents.runs for name in run.config)
    rows = []
    for name in names:
        values = [_said(run.config.get(name)) for run in contents.runs]
        rows.append((name, values, len(set(values)) > 1))
    return sorted(rows, key=lambda row: not row[2])


def _said(value: Any) -> str:
    return "default" if value is None else str(value)
