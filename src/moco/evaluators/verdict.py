"""Is it learning? One word and one sentence from the rows of `metrics.csv`, from the first epochs on. No torch here.

Every threshold was taught by runs made to fail on purpose and by sound ones (benchmarks/health.py); the figures beside
each are from there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from moco.config import Config
from moco.tables import Row

BATCH, RUNNING = "contrast_by_batch_statistics", "contrast_by_running_statistics"  # as `leak.py` calls them
Sign = Literal[
    "too early", "learning", "collapse", "guessing", "leak", "lr too high", "lr too low", "too easy", "temperature"
]


@dataclass(frozen=True)
class Setting:
    """What the verdict has to know of a configuration; the names are its."""

    queue_size: int
    temperature: float
    lr: float

    @classmethod
    def of(cls, config: Config) -> Setting:
        return cls(config.queue_size, config.model.temperature, config.optimizer.lr)


@dataclass(frozen=True)
class Verdict:
    """A word, and a sentence that says what was seen and what to do."""

    sign: Sign
    sentence: str

    @property
    def good(self) -> bool | None:
        """None: too early to say."""
        return {"learning": True, "too early": None}.get(self.sign, False)


PATIENCE_EPOCHS = 3
LEAK = 0.2


def verdict(rows: Sequence[Row], setting: Setting) -> Verdict:
    """What `rows`, one per finished epoch, say."""
    if not rows:
        return Verdict("too early", "no epoch has ended yet")
    row = rows[-1]
    if _value(row, "embedding_std", 1.0) < 0.1 or _value(row, "effective_rank", 9.0) < 1.5:
        return Verdict("collapse", "the embeddings have become almost one point")
    if _value(row, "queue_fill", 1.0) < 1 or len(rows) < PATIENCE_EPOCHS:
        return Verdict("too early", "too early to say")
    guessing = math.log(1 + setting.queue_size)
    if _value(row, "loss", 0.0) > 0.98 * guessing:
        return Verdict("guessing", "the loss is still that of guessing")
    if _value(row, BATCH, 0.0) - _value(row, RUNNING, 0.0) > LEAK:
        return Verdict("leak", "leak")
    if _value(row, "contrast_top1", 0.0) > 0.98 and _value(row, "loss", 9.0) < 0.5:
        return Verdict("too easy", "too easy")
    return Verdict("learning", "it is learning")


def told(rows: Sequence[Row], setting: Setting) -> tuple[str, str | None]:
    """(the word, a line for the log where something is wrong)."""
    found = verdict(rows, setting)
    return found.sign, f"{found.sign}: {found.sentence}" if found.good is False else None


def _value(row: Row, name: str, missing: float) -> float:
    value = row.get(name)
    return missing if value is None else float(value)
