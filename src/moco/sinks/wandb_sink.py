"""Weights & Biases. `WANDB_MODE=offline` keeps everything in the run directory, `wandb sync` sends it later."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from moco.sinks.sink import About, Sink, measured, plain
from moco.tables import Row

PROJECT = "moco"  # unless WANDB_PROJECT says otherwise


class WandbSink:
    """A run of wandb's, under the moco run's own number."""

    def __init__(self, about: About) -> None:
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=about.name,
            id=about.identity,
            resume="allow",
            dir=str(about.folder),
            config=plain(about.config),
        )
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="epoch")
        self._run.define_metric("at_step")
        self._run.define_metric("step/*", step_metric="at_step")

    def write(self, row: Row) -> None:
        """Every measured value, by epoch."""
        self._run.log({"epoch": row["epoch"], **measured(row)})

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Under `step/`, by step."""
        self._run.log({"at_step": step, **{f"step/{name}": value for name, value in values.items()}})

    def picture(self, name: str, pixels: NDArray[np.uint8]) -> None:
        """Among the run's media."""
        self._run.log({name: self._wandb.Image(pixels)})

    def close(self, finished: bool) -> None:
        """Marked as crashed where the run isn't at its end."""
        self._run.finish(exit_code=0 if finished else 1)


def open_sink(about: About) -> tuple[Sink, tuple[type[Exception], ...]]:
    """A `WandbSink`, and what it may raise. Raises `UserError` where wandb doesn't let one in."""
    import wandb

    from moco.errors import UserError, in_a_line

    try:
        return WandbSink(about), (wandb.Error, OSError)
    except wandb.Error as error:
        raise UserError(f"--log wandb: {in_a_line(error)} (WANDB_MODE=offline keeps it here)") from error
