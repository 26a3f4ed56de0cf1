"""Tables of measured values: a row per epoch, and the CSV files that hold them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from moco.errors import UserError, in_a_line
from moco.files import write_text

Value = float | int | None
Row = dict[str, Value]


def write_csv(path: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """The whole table, replaced at once; what wasn't measured is empty.

    `columns` come first, then any other that a row has: an evaluator that somebody added needs no entry there.
    """
    columns = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([cell(row.get(column)) for column in columns])
    write_text(path, text.getvalue())


def read_csv(path: Path) -> list[Row]:
    """The rows that `write_csv` wrote; None where a cell is empty. Raises `UserError` for a file that isn't a table."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [{name: _value(text) for name, text in row.items()} for row in csv.DictReader(file, strict=True)]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path} can't be read as a table of metrics: {in_a_line(error)}") from error


def _value(text: str) -> Value:
    if not text:
        return None
    return int(text) if text.lstrip("-").isdecimal() else float(text)


def cell(value: Value) -> str:
    """A value as a table holds it: empty if it wasn't measured."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.8g}"
