"""A line per step: `steps.csv`, and the same to the sinks.

Statistics wait on the device until somebody reads from it anyway: a step adds no host sync.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from moco.errors import UserError, in_a_line
from moco.files import write_text
from moco.sinks.sink import Sink
from moco.tables import cell


class Seen(Protocol):
    """What any step saw, as scalars on the device."""

    @property
    def loss(self) -> Tensor:
        """Mean over the batch."""

    @property
    def top1(self) -> Tensor:
        """Share that was right."""


class _Waiting(NamedTuple):
    step: int
    epoch: int
    lr: float
    measured: Tensor


class StepLog:
    """Appends to `path` what `add` was told, at every `flush`; without a path (processes beside the first) nothing.

    A resumed run goes on behind the last step that its checkpoint knows: what a killed run wrote beyond it is cut off,
    and comes again with the same values. The column of `Seen.top1` is called `top1`.

    Attributes:
        loss: of the last step that was written; not a number before.
    """

    def __init__(self, path: Path | None, sink: Sink | None = None, top1: str = "contrast_top1") -> None:
        self._path, self._sink, self._top1 = path, sink, top1
        self._columns = ("step", "epoch", "lr", "loss", top1)
        self._waiting: list[_Waiting] = []
        self.loss = float("nan")

    def begin(self, steps_done: int) -> None:
        """Keep the first `steps_done` steps of the file that is there, or begin a new one.

        Raises `UserError` where the file can't be read.
        """
        if self._path is None:
            return
        kept = [",".join(self._columns), *(line for step, line in self._lines(self._path) if step <= steps_done)]
        write_text(self._path, "\n".join(kept) + "\n")

    def _lines(self, path: Path) -> Iterator[tuple[int, str]]:
        """(step, its line) of the file that is there; what is no line of ours is left out."""
        try:
            with path.open(newline="", encoding="utf-8", errors="replace") as file:
                for row in csv.reader(file):
                    if len(row) == len(self._columns) and row[0].isdecimal():
                        yield int(row[0]), ",".join(row)
        except FileNotFoundError:
            return
        except (OSError, csv.Error) as error:
            raise UserError(f"{path} can't be read as a table of steps: {in_a_line(error)}") from error

    def add(self, step: int, epoch: int, lr: float, stats: Seen) -> None:
        """Step `step` (from 1) of `epoch` (from 1) is done; nothing is read from the device."""
        if self._path is not None:
            self._waiting.append(_Waiting(step, epoch, lr, torch.stack([stats.loss, stats.top1])))

    def flush(self) -> None:
        """Write what waits: one read from the device. Raises `UserError` where the file can't be written."""
        if not self._waiting or self._path is None:
            return
        measured = torch.stack([waiting.measured for waiting in self._waiting]).tolist()
        lines = []
        for waiting, (loss, top1) in zip(self._waiting, measured):
            values = (waiting.step, waiting.epoch, waiting.lr, loss, top1)
            lines.append(",".join(map(cell, values)) + "\n")
            self.loss = loss
            if self._sink is not None:
                self._sink.step(waiting.step, {"lr": waiting.lr, "loss": loss, self._top1: top1})
        self._waiting.clear()
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(lines)
        except OSError as error:
            raise UserError(f"can't write {self._path}: {in_a_line(error)}") from error
