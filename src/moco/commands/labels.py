"""`moco labels`: accuracy against the number of labels."""

from __future__ import annotations

import shlex
from dataclasses import fields
from typing import Any

from moco.commands.parsing import Parser
from moco.label_curves import LabelPoint, LabelsResult
from moco.rundir import RunDir
from moco.runs.labels_options import LabelsOptions


def parser() -> Parser:
    made = Parser(
        "labels",
        "Is pre-training worth it here, and how many labels does it take? Accuracy on validation against the number "
        "of labels: the frozen backbone, random weights, raw pixels, the same draws for each.",
        "moco labels runs/a    |    moco labels runs/a --data DIR --draws 3",
    )
    made.add_argument("run", help="run directory of `moco pretrain`")
    made.add_argument("--data", metavar="DIR", help="other labelled data than the run was trained on")
    made.add_argument(
        "--checkpoint", type=str, default="last", metavar="WHICH", help="last (default), best, or a kept epoch's number"
    )
    made.add_argument(
        "--finetune",
        action="store_true",
        help="fine-tune the whole network, and train it from scratch, on each draw too: hours instead of seconds",
    )
    made.add_class_arguments(LabelsOptions, nested_key=None, skip={"finetune"})
    return made


def checked(args: Any) -> LabelsOptions:
    """The options of parsed `args`. Raises `UserError` for a wrong value or run, without torch."""
    values = args.as_dict()
    options = LabelsOptions(**{f.name: values[f.name] for f in fields(LabelsOptions)})
    options.checked()
    RunDir.open(args.run)
    return options


def run(args: Any) -> None:
    """Measure, print a table and a sentence; `labels.json` and `plots/labels.png` hold the same."""
    options, place = checked(args), RunDir.open(args.run)
    from moco.runs.labels import labels

    print_labels(labels(args.run, options, args.data, args.checkpoint))
    print(f"{place.labels_file} and {place.plots / 'labels.png'} hold the same")
    print(f"next:  {shlex.join(['moco', 'linear', args.run, *(['--data', args.data] if args.data else [])])}")


def print_labels(result: LabelsResult) -> None:
    """A row for each number of labels, a column for each way of using them, and the sentence."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    out = Console(highlight=False, markup=False, emoji=False)
    if not out.is_terminal:
        out.width = 120  # a file or a pipe has no width of its own
    table = Table("labels", box=SIMPLE)
    table.add_column("images", justify="right")
    for curve in result.curves:
        table.add_column(curve.title, justify="right")
    for point in result.curves[0].points:
        found = [curve.at(point.share) for curve in result.curves]
        table.add_row(f"{100 * point.share:g} %", f"{point.images:,}", *[_cell(p, out.encoding) for p in found])
    out.print(
        f"top-1 on {result.val_images:,} validation images: mean over the draws, 95 % interval of the mean", table
    )
    print(result.sentence)  # one line, however narrow the terminal


def _cell(point: LabelPoint | None, encoding: str) -> str:
    if point is None:
        return "-"
    sign = "±" if encoding.startswith("utf") else "+-"
    spread = "" if point.half_width is None else f" {sign} {100 * point.half_width:.1f}"
    return f"{100 * point.mean:.1f}{spread} %"
