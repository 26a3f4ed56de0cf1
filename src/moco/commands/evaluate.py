"""`moco evaluate`: a run's classifier on all training and validation images."""

from __future__ import annotations

import shlex
from itertools import chain
from typing import Any

from moco.commands.parsing import Parser
from moco.console import percent
from moco.errors import printable
from moco.results import Evaluation, SplitScores
from moco.rundir import RunDir

MOST_COLUMNS = 20  # classes; a larger confusion matrix is in evaluation.json alone
MOST_ROWS = 1000  # classes; above, the table by class is in evaluation.json alone


def parser() -> Parser:
    made = Parser(
        "evaluate",
        "Accuracy of a run's linear classifier on all training and validation images: loss, top-1, every class, "
        "and what is taken for what.",
        "moco evaluate runs/a",
    )
    made.add_argument("run", help="run directory, after `moco linear`")
    made.add_argument(
        "--checkpoint",
        metavar="WHICH",
        help="last, best, or a kept epoch's number; default: the one that the classifier was trained on",
    )
    made.add_argument("--data", metavar="DIR", help="other labelled data with the same classes")
    made.add_argument("--name", metavar="NAME", help="of the linear classification, as given to `moco linear`")
    return made


def checked(args: Any) -> RunDir:
    """The run of parsed `args`. Raises `UserError` if there is none, without torch."""
    run = RunDir.open(args.run)
    run.linear_called(args.name)
    return run


def run(args: Any) -> None:
    """Print the tables and write `evaluation.json`. Raises `UserError` if the classifier doesn't fit."""
    place = checked(args)
    from moco.runs.evaluate import evaluate

    print_tables(evaluate(args.run, args.checkpoint, args.data, args.name))
    print(f"{place.evaluation_called(args.name)} holds the same\nnext:  {shlex.join(['moco', 'report', args.run])}")


def print_tables(evaluation: Evaluation) -> None:
    """Two tables on stdout: accuracy by class and in all, and validation's confusion matrix if it isn't too wide."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = Console(highlight=False, markup=False, emoji=False)
    if not out.is_terminal:
        out.width = 120  # a file or a pipe has no width of its own
    names = [Text(printable(name)) for name in evaluation.class_names]
    scores = evaluation.splits
    table = Table("class", box=SIMPLE)
    for split in scores:
        for heading in (f"{split} images", f"{split} top-1"):
            table.add_column(heading, justify="right")
    for row, name in enumerate(names if len(names) <= MOST_ROWS else []):
        cells = [(f"{s.class_images[row]:,}", percent(s.class_top1[row])) for s in scores.values()]
        table.add_row(name, *chain(*cells))
    table.add_section()
    table.add_row("all", *chain(*[(f"{s.images:,}", percent(s.top1)) for s in scores.values()]), style="bold")
    table.add_row("loss (nats)", *chain(*[("", f"{s.loss:.4f}") for s in scores.values()]))
    out.print("accuracy on all images", table)
    if len(names) <= MOST_COLUMNS:
        nothing = "·" if out.encoding.startswith("utf") else "."
        out.print("validation images by true class (rows) and predicted class (columns)")
        out.print(_confusion_table(names, evaluation.val, nothing))


def _confusion_table(names: list[Any], scores: SplitScores, nothing: str) -> Any:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    table = Table("", "true class", box=SIMPLE)
    for number in range(len(names)):
        table.add_column(str(number + 1), justify="right")
    for number, (name, counts) in enumerate(zip(names, scores.matrix())):
        cells = [Text(str(n), "bold") if i == number else str(n or nothing) for i, n in enumerate(counts)]
        table.add_row(str(number + 1), name, *cells)
    return table
