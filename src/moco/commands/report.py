"""`moco report`: a page of one or several runs, and the plots."""

from __future__ import annotations

import shlex
from typing import Any

from moco.commands.parsing import Parser


def parser() -> Parser:
    made = Parser(
        "report",
        "One HTML page that needs no network: curves of all runs, and of the first what its backbone makes of the "
        "images. The plots go to each run's plots/ as PNG and SVG.",
        "moco report runs/a runs/b",
    )
    made.add_argument("runs", nargs="+", help="run directories of `moco pretrain`; the pictures are those of the first")
    made.add_argument("--out", metavar="HTML", help="the page; default: report.html in the first run")
    made.add_argument(
        "--map",
        default="auto",
        metavar="HOW",
        help="of the images: umap, tsne, pca (the quick one); default: the first that is installed",
    )
    made.add_argument(
        "--checkpoint",
        metavar="WHICH",
        help="last, best, or a kept epoch's number; default: the one that the classifier was trained on, else last",
    )
    made.add_argument("--data", metavar="DIR", help="look at these images instead of the run's own")
    return made


def run(args: Any) -> None:
    """Write page and plots and name them. Raises `UserError` for a run without metrics."""
    from moco.rundir import RunDir

    places = [RunDir.open(path) for path in args.runs]  # a wrong name is answered before torch is loaded
    from moco.runs.report import report
    from moco.tables import read_csv

    made = report(args.runs, args.out, args.map, args.checkpoint, args.data)
    for path in (made.page, *made.plots):
        print(path)
    for sentence in made.notes:
        print(sentence)
    for place, given in zip(places, args.runs):
        labelled = any(row.get("knn_top1") is not None for row in read_csv(place.metrics_file))
        if labelled and not (place.linear / "metrics.csv").is_file():
            print(f"next:  {shlex.join(['moco', 'linear', given])}")
