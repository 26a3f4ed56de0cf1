"""Interleaved measurements: each round times every subject once, so that a drifting machine drifts for all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Subject:
    """Something to time.

    Attributes:
        name: of the figure.
        run: does the work once, waiting for the device at its end.
        items: how many things one run processes.
    """

    name: str
    run: Callable[[], None]
    items: int


@dataclass(frozen=True)
class Figure:
    """Items per second over the rounds: median, slowest, fastest."""

    median: float
    low: float
    high: float
    rounds: int


def interleaved(subjects: list[Subject], rounds: int) -> dict[str, Figure]:
    """Each subject's rate. One round before the counted ones warms up; the order turns around every round."""
    rates: dict[str, list[float]] = {s.name: [] for s in subjects}
    for round_number in range(rounds + 1):
        for subject in subjects if round_number % 2 else reversed(subjects):
            started = time.perf_counter()
            subject.run()
            seconds = time.perf_counter() - started
            if round_number:
                rates[subject.name].append(subject.items / seconds)
    return {name: Figure(statistics.median(r), min(r), max(r), len(r)) for name, r in rates.items()}
