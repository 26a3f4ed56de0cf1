"""TensorBoard: scalars by epoch and by step, and pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moco.errors import UserError, in_a_line
from moco.sinks.sink import measured
from moco.tables import Row


class TensorBoard:
    """Scalars of each row under `folder`; a resumed run writes on."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        try:
            self._writer = SummaryWriter(str(folder))
        except OSError as error:
            raise UserError(f"can't write {folder}: {in_a_line(error)}") from error

    def write(self, row: Row) -> None:
        """Every measured value of `row` at its epoch."""
        for name, value in measured(row).items():
            self._writer.add_scalar(name, value, int(row["epoch"] or 0))
        self._writer.flush()

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Measured values at a step, under `step/`."""
        for name, value in values.items():
            if math.isfinite(value):
                self._writer.add_scalar(f"step/{name}", value, step)

    def picture(self, name: str, pixels: NDArray[np.uint8]) -> None:
        """Under Images."""
        self._writer.add_image(name, pixels, 0, dataformats="HWC")
        self._writer.flush()

    def close(self, finished: bool) -> None:
        """Whatever came of it."""
        self._writer.close()
