"""Stop signals: the step is finished, everything is saved; a second signal stops at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType

_STOP = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class StopSignals:
    """While entered, SIGINT, SIGTERM and SIGHUP only set `stop`, and SIGUSR1 sets `save`.

    A second one of the three ends the process at once, by the signal's own default. A signal that whoever started the
    process has it ignore (nohup: SIGHUP) stays ignored. Outside the main thread nothing can be caught, and isn't.

    Within `settle_s` seconds a second one counts as the first: torchrun passes on what the terminal has sent already.
    """

    def __init__(self, settle_s: float = 0.0) -> None:
        self._settle_s, self._stopped_at = settle_s, 0.0
        self.stop: str | None = None
        self.save = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in _STOP:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._on_stop)
        if hasattr(signal, "SIGUSR1"):
            self._before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._on_save)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def hear(self, reason: str) -> None:
        """Another process of the run was told to stop: what follows here within `settle_s` is the same signal."""
        if self.stop is None:
            self.stop, self._stopped_at = reason, time.monotonic()

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.stop is not None:
            if now - self._stopped_at < self._settle_s:
                return
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.stop, self._stopped_at = signal.Signals(number).name, now

    def _on_save(self, number: int, frame: FrameType | None) -> None:
        self.save = True
