"""Where a run stands, and the keys of its checkpoints: saved and restored side by side."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from moco.tables import Row
from moco.train.step import StepStats


class Totals:
    """Sums of each statistic over an epoch's steps, float64 scalars on the device: reading them is a host sync.

    The statistics are the fields of a record, by default those of MoCo's step.
    """

    def __init__(self, device: torch.device | None = None, of: type = StepStats) -> None:
        self.names = tuple(f.name for f in fields(of))
        self._sums = torch.zeros(len(self.names), dtype=torch.float64, device=device)

    def add(self, stats: Any) -> None:
        """Count a step's statistics, on the device."""
        self._sums += torch.stack([getattr(stats, name) for name in self.names])

    def means(self, steps: int) -> dict[str, float]:
        """Each statistic's mean over `steps` steps, by its name."""
        return dict(zip(self.names, (self._sums / steps).tolist()))

    def forget(self) -> None:
        """Begin a new epoch."""
        self._sums.zero_()

    def state_dict(self) -> Tensor:
        """float64 (statistics,) on the CPU, in the order of `names`."""
        return self._sums.cpu()

    def load_state_dict(self, sums: Tensor) -> None:
        """Go on from what `state_dict` gave."""
        self._sums.copy_(sums)


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: steps done since the beginning.
        seconds: training time of the epoch under way, evaluation left out.
        rows: a metrics row per finished epoch.
        best: the best monitored value, and `best_epoch` when.
    """

    step: int = 0
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    best: float | None = None
    best_epoch: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        for f in fields(self):
            setattr(self, f.name, values[f.name])
