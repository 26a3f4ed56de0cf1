"""A non-finite loss stops the run before anything of it is saved."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from moco.errors import TrainingFailed


class FiniteGuard:
    """Watches the loss of each step.

    On the CPU the loss is looked at before the gradient step. On CUDA a look is a host sync: the first bad step is
    read when the loop syncs anyway (`check`), always before a checkpoint. torch's fused optimizers are told on the
    device to leave the weights alone until then (`found_inf`, as GradScaler does); Muon and LARS know no such word.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._optimizer = optimizer
        self._bad_step = torch.full((), -1, device=device) if device.type != "cpu" else None
        self._now = None if self._bad_step is None else torch.zeros_like(self._bad_step)
        self._step, self._lr = 0, 0.0

    def watch(self, step: int, lr: float) -> None:
        """The next loss is that of `step` (from 1), at this learning rate."""
        self._step, self._lr = step, lr
        if self._now is not None:
            self._now.fill_(step)

    def __call__(self, loss: Tensor) -> None:
        """Look at the loss. Raises `TrainingFailed` on the CPU."""
        if self._bad_step is None or self._now is None:
            if not math.isfinite(loss.item()):
                self._fail(self._step)
            return
        bad = ~torch.isfinite(loss.detach())
        first = bad & (self._bad_step < 0)
        self._bad_step.copy_(torch.where(first, self._now, self._bad_step))  # in its place: the step may be recorded
        found = (self._bad_step >= 0).float()
        self._optimizer.found_inf = found  # type: ignore[attr-defined]
        self._optimizer.grad_scale = torch.ones_like(found)  # type: ignore[attr-defined]

    def check_weights(self) -> None:
        """Look at the weights themselves (a host sync). Raises `TrainingFailed` if one isn't finite."""
        weights = [p.detach() for group in self._optimizer.param_groups for p in group["params"]]
        if not bool(torch.isfinite(torch.stack(torch._foreach_norm(weights, float("inf")))).all()):
            raise TrainingFailed(f"weights are not finite after step {self._step}: nothing is saved")

    def check(self) -> None:
        """Read the device's verdict (a host sync). Raises `TrainingFailed` if a step went wrong."""
        if self._bad_step is not None and (bad := int(self._bad_step.item())) >= 0:
            self._fail(bad)

    def _fail(self, step: int) -> None:
        rate = f" (lr {self._lr:.3g})" if step == self._step else ""  # a bad step of before had another
        raise TrainingFailed(f"the loss is not finite at step {step}{rate}")
