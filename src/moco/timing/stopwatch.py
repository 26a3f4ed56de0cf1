"""Where a step's time goes: timers around the parts of a model, without a second copy of the step."""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch

from moco.model.moco import MoCo
from moco.runtime import Runtime

PARTS = ("views", "query_forward", "key_forward", "loss", "backward", "optimizer", "momentum", "queue")


class Stopwatch:
    """Milliseconds of each part of each step.

    `install` wraps methods of these very objects (models, optimizer, runtime); `remove` puts them back. Waiting for
    the device around each part makes a step slower on CUDA than it is without the watch. Where threads work at once,
    the time that passes meanwhile is shared out as theirs is: the parts of a step add up to it.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.steps: list[dict[str, float]] = []
        self._now: dict[str, float] = defaultdict(float)
        self._at_once = 1
        self._adding = threading.Lock()
        self._wrapped: list[tuple[Any, str]] = []

    def install(self, model: MoCo, optimizer: torch.optim.Optimizer, models: Sequence[MoCo]) -> None:
        """Time the parts of `train_step` with these objects from now on; `models` are those of the batch's parts."""
        for one in models:
            self._wrap(one.encoder_q, "forward", "query_forward")
            self._wrap(one, "keys", "key_forward")
        self._at_once = min(len(models), self.runtime.workers.count)
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
        alone = sum(parts[part] for part in ("optimizer", "momentum", "queue"))
        threaded = sum(parts.values()) - alone
        passed = min(threaded / self._at_once, whole - alone)
        for part in ("query_forward", "key_forward", "backward"):
            parts[part] *= passed / threaded
        parts["views"] = before - started
        parts["loss"] = whole - alone - passed  # logits, cross-entropy and what is left
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
                seconds = self._clock() - started
                with self._adding:
                    self._now[part] += seconds

        setattr(owner, name, timed)
        self._wrapped.append((owner, name))

    def _clock(self) -> float:
        self.runtime.synchronize()
        return time.perf_counter()
