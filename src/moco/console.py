"""What a person sees while something runs: lines and progress bars, on stderr."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)


def say(text: str) -> None:
    """One line of the log."""
    console.print(text, markup=False)


def percent(share: float | int | None, places: int = 2) -> str:
    """A share from 0 to 1 as people read it; `-` for what wasn't measured."""
    return "-" if share is None else f"{100 * share:.{places}f} %"


class Bar(Progress):
    """A bar for terminals; in a log file it leaves nothing, not even a blank line."""

    def stop(self) -> None:
        if not self.disable:
            super().stop()


def progress_bar(unit: str) -> Progress:
    """A progress bar with count, rate in `unit` (set by `update(rate=...)`), time passed and time left."""
    return Bar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} " + unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,  # a log file gets the lines, not the bar
    )
