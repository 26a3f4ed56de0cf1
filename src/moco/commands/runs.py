"""`moco runs`: the runs in a folder as a table, and what differs between two of them."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

from moco.commands.parsing import Parser
from moco.console import percent
from moco.errors import UserError, printable
from moco.runs.listing import Difference, RunRow, compare_runs, list_runs

WATCH_S = 5.0


def parser() -> Parser:
    made = Parser(
        "runs",
        "The runs in a folder: what was trained on what, how far, how good, and whether it is running, finished, "
        "interrupted or failed. `moco runs compare A B`: what differs in configuration and result.",
        "moco runs runs/    or    moco runs compare runs/a runs/b",
    )
    made.add_argument(
        "words", nargs="*", default=[], metavar="[DIR | compare A B]", help="folder to look in; default: runs"
    )
    made.add_argument("--json", action="store_true", help="print JSON instead of a table")
    made.add_argument("--watch", action="store_true", help=f"look again every {WATCH_S:g} s, until Ctrl-C")
    return made


def run(args: Any) -> None:
    """Print the table, or the differences. Raises `UserError` for a folder or run that isn't there."""
    words = list(args.words)
    if words[:1] == ["compare"]:
        if len(words) != 3 or args.watch:
            raise UserError("give two runs: moco runs compare A B")
        _print_differences(words[1], words[2], args.json)
        return
    if len(words) > 1:
        raise UserError(f"give one folder, not {len(words)} (or: moco runs compare A B)")
    folder = words[0] if words else "runs"
    if args.watch:
        _watch(folder, args.json)
    elif args.json:
        print(json.dumps([row.as_dict() for row in list_runs(folder)], indent=1))
    else:
        _print_table(folder)


def _watch(folder: str, as_json: bool) -> None:
    """The table again and again: in place on a terminal, one after the other elsewhere; as JSON a line each time."""
    from rich.console import Console
    from rich.live import Live

    if as_json:
        while True:
            print(json.dumps([row.as_dict() for row in list_runs(folder)]), flush=True)
            time.sleep(WATCH_S)
    out = Console(highlight=False, markup=False, emoji=False)
    if not out.is_terminal:
        while True:
            _print_table(folder)
            time.sleep(WATCH_S)
    with Live(_table(list_runs(folder)), console=out, auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_S)
            live.update(_table(list_runs(folder)), refresh=True)


def _print_table(folder: str) -> None:
    from rich.console import Console

    rows = list_runs(folder)
    if not rows:
        print(f"no runs in {folder}")
        return
    out = Console(highlight=False, markup=False, emoji=False)
    if not out.is_terminal:
        out.width = 200  # a file or a pipe has no width of its own
    out.print(_table(rows))
    for row in rows:
        if row.reason:
            out.print(f"{row.path}: {row.reason}", soft_wrap=True)


def _table(rows: list[RunRow]) -> Any:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE)
    for heading in ("run", "recipe", "data"):
        table.add_column(heading, overflow="fold")
    for heading in ("epochs", "kNN best", "kNN last", "linear", "training"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("disk", justify="right", no_wrap=True)
    for row in rows:
        words = (
            row.path, row.recipe or "-", row.data or "-", f"{row.epochs_done}/{row.epochs or '?'}",
            percent(row.knn_best, 1), percent(row.knn_last, 1), _linear(row), clock(row.seconds),
            row.state, size(row.disk_bytes),
        )  # fmt: skip
        table.add_row(*(Text(printable(word)) for word in words))
    return table


def _linear(row: RunRow) -> str:
    """With the epoch that it is of, where that isn't the last."""
    of_now = row.linear_epoch in (None, row.epochs_done)
    return percent(row.linear, 1) + ("" if of_now else f" (epoch {row.linear_epoch})")


def _print_differences(first: str, second: str, as_json: bool) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    found = compare_runs(first, second)
    if as_json:
        print(json.dumps([asdict(difference) for difference in found], indent=1))
        return
    out = Console(highlight=False, markup=False, emoji=False)
    if not out.is_terminal:
        out.width = 160
    if not found:
        out.print("no difference")
        return
    table = Table("", "", first, second, box=SIMPLE)
    before = ""
    for difference in found:
        if before and difference.where != before:
            table.add_section()
        words = (difference.where if difference.where != before else "", difference.name, *_both(difference))
        table.add_row(*(Text(printable(word)) for word in words))
        before = difference.where
    out.print(table)


def _both(difference: Difference) -> tuple[str, str]:
    def said(value: Any) -> str:
        return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)

    return said(difference.first), said(difference.second)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
