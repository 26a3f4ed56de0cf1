"""trackio: a database on this machine (`TRACKIO_DIR`), which `trackio show` opens."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.sinks.sink import About, Sink, measured, plain
from moco.tables import Row

PROJECT = "moco"  # unless TRACKIO_PROJECT says otherwise


class TrackioSink:
    """A run of trackio's, called by the moco run's name and number."""

    def __init__(self, about: About) -> None:
        import trackio

        self._trackio: Any = trackio
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=f"{about.name}-{about.identity[:6]}",
            config=plain(about.config),
            resume="allow",
            embed=False,
        )

    def write(self, row: Row) -> None:
        """Every measured value, and the epoch."""
        values = {name: value for name, value in measured(row).items() if name != "step"}  # a word of its own
        self._run.log({"epoch": row["epoch"], **values}, step=int(row["step"] or 0))

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Under `step/`."""
        self._run.log({f"step/{name}": value for name, value in values.items()}, step=step)

    def picture(self, name: str, pixels: NDArray[np.uint8]) -> None:
        """Among the run's media."""
        self._run.log({name: self._trackio.Image(pixels)}, step=0)

    def close(self, finished: bool) -> None:
        """Whatever came of it."""
        self._run.finish()


def open_sink(about: About) -> tuple[Sink, tuple[type[Exception], ...]]:
    """A `TrackioSink`, and what it may raise. Raises `UserError` where its database can't be opened."""
    from moco.errors import UserError, in_a_line

    try:
        return TrackioSink(about), (OSError, RuntimeError, ValueError)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"--log trackio: {in_a_line(error)}") from error
