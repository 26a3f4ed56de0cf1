"""Is another program using this machine? The steps' own times say so. It changes no result, only the log."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass

WINDOW = 20  # steps that are looked at: single slow ones (a checkpoint, a page read from disk) don't count
SLOW, WELL_AGAIN = 1.6, 1.25  # times the best pace: said above the one, taken back below the other


@dataclass(frozen=True)
class Pressure:
    """What is known after some steps.

    Attributes:
        best_s: the shortest median time of `WINDOW` steps so far; None before there were as many.
        slow: whether the machine has been called slow and not well again since.
    """

    best_s: float | None = None
    slow: bool = False


def judged(before: Pressure, recent_s: list[float]) -> tuple[Pressure, str | None]:
    """What is known after the last `WINDOW` steps, which took `recent_s` seconds each; and a sentence if it is news."""
    now_s = statistics.median_low(recent_s)
    if before.best_s is None or now_s < before.best_s:
        return Pressure(now_s, False), None
    ratio = now_s / before.best_s
    if not before.slow and ratio > SLOW:
        return Pressure(before.best_s, True), (
            f"a step takes {ratio:.1f} times as long as it did: another program is using this machine "
            "(the results stay the same)"
        )
    if before.slow and ratio < WELL_AGAIN:
        return Pressure(before.best_s, False), "the steps are as fast as they were again"
    return before, None


class Neighbours:
    """Told of each step's time, it says when the machine has become slow, and when it no longer is.

    Steps on views of another size are other work: it begins anew with them.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._pressure = Pressure()
        self._side: int | None = None

    def step(self, seconds: float, side: int | None = None) -> str | None:
        """A step on views of so many pixels a side took `seconds`; a sentence if that is news."""
        if side != self._side:
            self._side, self._pressure = side, Pressure()
            self._recent.clear()
        self._recent.append(seconds)
        if len(self._recent) < WINDOW:
            return None
        self._pressure, sentence = judged(self._pressure, list(self._recent))
        if sentence is not None:
            self._recent.clear()  # the next word is about other steps
        return sentence
