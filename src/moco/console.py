"""What a person sees while something runs: lines and progress bars, through one listener that can be replaced.

The listener at first is `Terminal`: lines and bars on stderr. A program that calls moco as a library can silence it or
put its own in place:

    with listening(Silent()):
        moco.pretrain(...)
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

console = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)


class Bar(Protocol):
    """One piece of work under way."""

    def update(self, done: float, title: str | None = None, rate: str | None = None) -> None:
        """So much is `done` in all; `title` and `rate` replace what is shown beside it."""


class Listener(Protocol):
    """Who is told what happens."""

    def say(self, text: str) -> None:
        """One line of the log."""

    def progress(self, title: str, total: float, unit: str) -> contextlib.AbstractContextManager[Bar]:
        """Work of `total` pieces begins; `unit` is what its rate is in (`images/s`), or `bytes`."""


class _Quiet:
    def update(self, done: float, title: str | None = None, rate: str | None = None) -> None:
        """Nothing is shown."""


class Silent:
    """A listener that shows nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    @contextlib.contextmanager
    def progress(self, title: str, total: float, unit: str) -> Iterator[Bar]:
        """Nothing."""
        yield _Quiet()


class Terminal:
    """Lines on stderr, and bars where it is a terminal: a log file, or TERM=dumb, gets the lines alone."""

    def say(self, text: str) -> None:
        """Print the line as it is."""
        console.print(text, markup=False)

    @contextlib.contextmanager
    def progress(self, title: str, total: float, unit: str) -> Iterator[Bar]:
        """A bar with count, rate, time passed and time left, gone when the work ends."""
        if not console.is_terminal or console.is_dumb_terminal:
            yield _Quiet()
            return
        with Progress(*_columns(unit), console=console, transient=True) as shown:
            yield _Shown(shown, shown.add_task(title, total=total, rate=""))


class _Shown:
    """A bar of rich's; its rate is counted from its first update on unless one is given."""

    def __init__(self, shown: Progress, task: TaskID) -> None:
        self._shown, self._task, self._began = shown, task, time.perf_counter()

    def update(self, done: float, title: str | None = None, rate: str | None = None) -> None:
        fallback = f"{done / max(time.perf_counter() - self._began, 1e-9):,.0f}"
        words = {} if title is None else {"description": title}
        self._shown.update(self._task, completed=done, rate=rate or fallback, **words)  # type: ignore[arg-type]


def _columns(unit: str) -> list[ProgressColumn]:
    counts: list[ProgressColumn] = [MofNCompleteColumn(), TextColumn("{task.fields[rate]} " + unit)]
    if unit == "bytes":
        counts = [DownloadColumn(), TransferSpeedColumn()]
    times: list[ProgressColumn] = [TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()]
    return [TextColumn("{task.description}"), BarColumn(bar_width=30), *counts, *times]


_listener: Listener = Terminal()


def is_silent() -> bool:
    """Whether nothing is shown."""
    return isinstance(_listener, Silent)


def listen(listener: Listener) -> Listener:
    """Put `listener` in place from now on; returns the one before it."""
    global _listener
    before, _listener = _listener, listener
    return before


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Put `listener` in place for a while."""
    before = listen(listener)
    try:
        yield
    finally:
        listen(before)


def say(text: str) -> None:
    """One line of the log."""
    _listener.say(text)


def progress(title: str, total: float, unit: str) -> contextlib.AbstractContextManager[Bar]:
    """Work of `total` pieces begins: `with progress(...) as bar: bar.update(done)`. `unit`: `images/s`, or `bytes`."""
    return _listener.progress(title, total, unit)


def percent(share: float | int | None, places: int = 2) -> str:
    """A share from 0 to 1 as people read it; `-` for what wasn't measured."""
    return "-" if share is None else f"{100 * share:.{places}f} %"
