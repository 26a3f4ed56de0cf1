"""Where a step's time goes: timers around the parts of a model, without a second copy of the step."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from moco.model.moco import MoCo
from moco.runtime import Runtime

PARTS = ("views", "query_forward", "key_forward", "loss", "backward", "optimizer", "momentum", "queue")


class Stopwatch:
    """Seconds of each part of each step, in milliseconds of device time.

    `install` wraps methods of these very objects (model, optimizer, runtime); `remove` puts them back. Waiting for
    the device around each part makes a step slower on CUDA than it is without the watch.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.steps: list[dict[str, float]] = []
        self._now: dict[str, float] = defaultdict(float)
        self._wrapped: list[tuple[Any, str]] = []

    def install(self, model: MoCo, optimizer: torch.optim.Optimizer) -> None:
        """Time the parts of `train_step` with these objects from now on."""
        self._wrap(model.encoder_q, "forward", "query_forward")
        self._wrap(model, "keys", "key_forward")
        self._wrap(self.runtime, "backward", "backward")
        self._wrap(optimizer, "step", "optimizer")
        self._wrap(model, "update_key_encoder", "momentum")
        self._wrap(model, "enqueue", "queue")

    def remove(self) -> None:
        """Undo `install`."""
        for owner, name in self._wrapped:
            delattr(owner, name)
        self._wrapped.clear()

    def step(self, views: Callable[[], Any], rest: Callable[[Any], Any]) -> None:
        """Run and record one step: `views()` makes the views, `rest(views)` is the training step."""
        self._now.clear()
        started = self._clock()
        made = views()
        before = self._clock()
        rest(made)
        whole = self._clock() - before
        parts = dict(self._now)
        parts["views"] = before - started
        parts["loss"] = whole - sum(self._now.values())  # logits, cross-entropy and what is left
        self.steps.append({part: 1000 * parts.get(part, 0.0) for part in PARTS})

    def medians(self) -> dict[str, float]:
        """Milliseconds of each part, the median over the steps."""
        return {part: statistics.median(step[part] for step in self.steps) for part in PARTS}

    def _wrap(self, owner: Any, name: str, part: str) -> None:
        original = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = self._clock()
            try:
                return original(*args, **kwargs)
            finally:
                self._now[part] += self._clock() - started

        setattr(owner, name, timed)
        self._wrapped.append((owner, name))

    def _clock(self) -> float:
        self.runtime.synchronize()
        return time.perf_counter()
