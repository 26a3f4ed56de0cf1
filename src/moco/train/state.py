"""Where a run stands: everything that a checkpoint holds beside the model's tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from moco.train.metrics import Row
from moco.train.step import StepStats


@dataclass
class TrainState:
    """Progress of a run.

    Attributes:
        step: steps done since the beginning.
        seconds: training time of the epoch under way, evaluation left out.
        sums: float64 (4,) on the device, sums over the epoch's steps of loss, top1, positive, negative.
        rows: a metrics row per finished epoch.
        best: the best monitored value, and `best_epoch` when.
    """

    step: int = 0
    seconds: float = 0.0
    sums: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    rows: list[Row] = field(default_factory=list)
    best: float | None = None
    best_epoch: int | None = None

    def add(self, stats: StepStats) -> None:
        """Count a step's statistics, on the device."""
        self.sums += torch.stack([stats.loss, stats.top1, stats.positive, stats.negative])

    def new_epoch(self) -> None:
        """Forget the sums of the finished epoch."""
        self.sums.zero_()
        self.seconds = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values and tensors."""
        return {**vars(self), "sums": self.sums.cpu(), "rows": list(self.rows)}

    @classmethod
    def from_dict(cls, values: dict[str, Any], device: torch.device) -> TrainState:
        """The state that `as_dict` gave."""
        return cls(**{**values, "sums": values["sums"].to(device)})


def checkpoint_content(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainState, config: dict[str, Any], about: dict[str, Any]
) -> dict[str, Any]:
    """What `checkpoint.save` stores: loadable with `weights_only=True`."""
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "state": state.as_dict(),
        "config": config,
        "about": about,
    }
