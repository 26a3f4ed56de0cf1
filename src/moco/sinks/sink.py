"""What a sink is, several as one, and which there are by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from moco.config import trackers
from moco.console import say
from moco.errors import UserError, in_a_line
from moco.tables import Row


@dataclass(frozen=True)
class About:
    """What a tracker is told of the run.

    Attributes:
        name: for people.
        identity: the run's own number, hex: a resumed run is the same one there.
        folder: the run directory.
        config: every option by its dotted name.
    """

    name: str
    identity: str
    folder: Path
    config: Mapping[str, Any]


class Sink(Protocol):
    """Somebody who is told of a run while it trains. A resumed run tells the same sink on."""

    def write(self, row: Row) -> None:
        """An epoch has ended: every measured value of its row."""

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Measured values of step `step` (from 1)."""

    def picture(self, name: str, pixels: NDArray[np.uint8]) -> None:
        """A picture, RGB (H, W, 3)."""

    def close(self, finished: bool) -> None:
        """Nothing follows; `finished`: the run's last epoch has ended."""


OpenSink = Callable[[About], tuple[Sink, tuple[type[Exception], ...]]]  # and what it may raise: never the run's end


class Several:
    """Sinks as one. A tracker that fails is said and left out from then on: the run's own files go on."""

    def __init__(self, own: Sink, others: Sequence[tuple[str, Sink, tuple[type[Exception], ...]]] = ()) -> None:
        self._own, self._others = own, list(others)

    def write(self, row: Row) -> None:
        self._own.write(row)
        self._tell(lambda sink: sink.write(row))

    def step(self, step: int, values: Mapping[str, float]) -> None:
        self._own.step(step, values)
        self._tell(lambda sink: sink.step(step, values))

    def picture(self, name: str, pixels: NDArray[np.uint8]) -> None:
        self._own.picture(name, pixels)
        self._tell(lambda sink: sink.picture(name, pixels))

    def close(self, finished: bool) -> None:
        self._own.close(finished)
        self._tell(lambda sink: sink.close(finished))

    def _tell(self, message: Callable[[Sink], None]) -> None:
        for entry in list(self._others):
            name, sink, may_raise = entry
            try:
                message(sink)
            except may_raise as error:
                say(f"--log {name} is left out from here on: {in_a_line(error)}")
                self._others.remove(entry)


def check_installed(log: str | None) -> None:
    """Raises `UserError` where `log` names a tracker whose package, called as it, isn't there."""
    for name in trackers(log):
        if find_spec(name) is None:
            raise UserError(f'--log {name} needs the package {name}: pip install "momentum-contrast[{name}]"')


def opened(own: Sink, log: str | None, about: About, begins: bool = True) -> Several:
    """`own` and the trackers that `log` names.

    One that can't be opened is a `UserError` where the run `begins`; a run that goes on does so without it, and a line
    says so.
    """
    others = []
    for name in trackers(log):  # each has a module here
        try:
            check_installed(name)
            open_sink: OpenSink = import_module(f"moco.sinks.{name}_sink").open_sink
            others.append((name, *open_sink(about)))
        except UserError as error:
            if begins:
                raise
            say(f"{error}: the run goes on without it")
    return Several(own, others)


def measured(row: Row) -> dict[str, float]:
    """The finite values of a row, its epoch aside."""
    return {
        name: value for name, value in row.items() if name != "epoch" and value is not None and math.isfinite(value)
    }


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options as every tracker takes them: lists as text."""
    return {name: str(value) if isinstance(value, list | tuple) else value for name, value in config.items()}
