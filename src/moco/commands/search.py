"""`moco search`: the images of a feature file that are most like given ones."""

from __future__ import annotations

from typing import Any

from moco.commands.parsing import Parser
from moco.errors import UserError, printable
from moco.rundir import RunDir


def parser() -> Parser:
    made = Parser(
        "search",
        "The images of a feature file that are most like yours: paths and similarities, and one picture. The index "
        "must be of this run and its checkpoint.",
        "moco search runs/a --index features.parquet --query cat.jpg dog.jpg --out nearest.png",
    )
    made.add_argument("run", help="run directory that the index was made with")
    made.add_argument("--index", required=True, metavar="FILE", help="what `moco embed` wrote")
    made.add_argument("--query", required=True, nargs="+", metavar="IMAGE", help="image files")
    made.add_argument("--k", type=int, default=10, help="how many are shown (default: 10)")
    made.add_argument("--out", default=None, metavar="PNG", help="draw them: a row a query, its picture first")
    made.add_argument("--data", default=None, metavar="DIR", help="where the images are now, if they moved (for --out)")
    return made


def run(args: Any) -> None:
    """Print a table a query. Raises `UserError` for mistakes, and an index of another run or checkpoint."""
    RunDir.open(args.run)  # a wrong name is answered before torch is loaded
    if args.data is not None and args.out is None:
        raise UserError("--data says where the pictures are that --out draws: give that too")
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from moco.runs.search import search

    out = Console(highlight=False, emoji=False, soft_wrap=True)
    for found in search(args.run, args.index, args.query, args.k, args.out, args.data):
        table = Table("similarity", "label", "path", title=escape(printable(found.query)), title_justify="left")
        for match in found.matches:
            label = printable(match.label) if match.label is not None else "-"
            table.add_row(f"{match.score:.4f}", escape(label), escape(printable(match.path)))
        out.print(table)
    if args.out is not None:
        print(f"{args.out}: a row a query, its picture first")
