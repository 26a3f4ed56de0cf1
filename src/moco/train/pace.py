"""When to save: the clock and the configuration, apart from the loop. It changes what a crash costs, and no result."""

from __future__ import annotations

import time
from collections.abc import Callable

from moco.config import CheckpointConfig

SAVING_SHARE = 0.05  # of the time, where checkpoint.every_epochs leaves it open


class Pace:
    """Decides, with `clock` in seconds, whether a checkpoint is due."""

    def __init__(self, config: CheckpointConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config, self._clock = config, clock
        self._saved_at, self._save_s = clock(), 0.0

    def due_between_steps(self) -> bool:
        """Whether `checkpoint.every_minutes` have passed since the last one."""
        minutes = self._config.every_minutes
        return minutes > 0 and self._clock() - self._saved_at > 60 * minutes

    def due_after(self, epoch: int) -> bool:
        """Whether the end of `epoch` (from 1) is a time to save: as asked, or so that it costs a twentieth at most."""
        every = self._config.every_epochs
        if every is not None:
            return epoch % every == 0
        return self._clock() - self._saved_at > self._save_s / SAVING_SHARE

    def keeps(self, epoch: int) -> bool:
        """Whether the checkpoint after `epoch` (from 1) stays for good."""
        every = self._config.keep_every_epochs
        return every is not None and epoch % every == 0

    def saving(self, save: Callable[[], object]) -> None:
        """Save, and remember when and how long it took."""
        began = self._clock()
        save()
        self._saved_at = self._clock()
        self._save_s = self._saved_at - began
