"""Is it learning? One word and one sentence from the rows of `metrics.csv`, from the first epochs on. No torch here.

Every threshold was taught by runs made to fail on purpose and by sound ones beside them (benchmarks/health.py; its rows
are in benchmarks/results/2026-11-25-health.json): the figures beside each are the nearest of either kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from moco.config import Config
from moco.cosine import momentum
from moco.tables import Row

# The columns of `leak.py`.
BATCH, SHUFFLED = "contrast_by_batch_statistics", "contrast_by_shuffled_statistics"
RUNNING = "contrast_by_running_statistics"
Sign = Literal[
    "too early", "learning", "collapse", "guessing", "leak", "lr too high", "lr too low", "too easy", "temperature"
]

PATIENCE_EPOCHS = 3  # before a sign that takes time is believed
FLAT_STD = 0.1  # of the embeddings: lr 3 has 0.056 to 0.091, constant images 0; the flattest sound run 0.21
LOW_TEMPERATURE = 0.05  # from here on it isn't blamed: with few keys, guessing is easy and 0.07 starts above it
ABOVE_GUESSING = 1.2  # the loss in units of guessing's: T 0.001 has 3.6, no other run above 1.01
GUESSING = 0.975  # the same: lr 0 to 1e-4 and T 10 stay above 0.99, the worst sound run comes to 0.955
BEST_OF_GUESSING = 0.9  # the least loss that T allows, in units of guessing's: T 10 allows 0.986, T 1 0.86
FAST = 0.025  # movement a step, of the weights' length: lr 3 has 0.048, Muon at its usual rate 0.013
SLOW = 8e-5  # the same, where the loss is that of guessing: lr 1e-4 has 1.2e-5, lr 0.01 6.5e-4
FEW_DIMENSIONS = 5.0  # effective rank of what moved too fast: Muon at lr 1 has 4.6 and less
DRIFT = 0.13  # found in the queue, not among fresh keys: constant images 0.17 from epoch 3 on, sound runs up to 0.10
EASY_TOP1, EASY_SIMILARITY = (
    0.93,
    0.8,
)  # identical views have 0.95 and 0.83 after 96 steps; Imagenette ends at 0.62, 0.71
LEAK = 0.15


@dataclass(frozen=True)
class Setting:
    """What the verdict has to know of a configuration; the names are its."""

    queue_size: int
    temperature: float
    momentum: float
    momentum_end: float | None = None
    epochs: int | None = None

    @classmethod
    def of(cls, config: Config) -> Setting:
        """Of a configuration whose queue is decided."""
        model = config.model
        return cls(config.queue_size, model.temperature, model.momentum, model.momentum_end, config.train.epochs)

    def momentum_after(self, epoch: float) -> float:
        """m of the key encoder after `epoch` epochs."""
        if self.momentum_end is None or self.epochs is None:
            return self.momentum
        return momentum(self.momentum, self.momentum_end, min(epoch / self.epochs, 1.0))

    @property
    def guessing(self) -> float:
        """The loss of guessing, nats."""
        return math.log(1 + self.queue_size)

    @property
    def least_loss(self) -> float:
        """Of positives that are alike and negatives that have nothing in common, nats."""
        return math.log1p(self.queue_size * math.exp(-1 / self.temperature))


@dataclass(frozen=True)
class Verdict:
    """A word, and a sentence that says what was seen and what to do."""

    sign: Sign
    sentence: str

    @property
    def good(self) -> bool | None:
        """None: too early to say."""
        return {"learning": True, "too early": None}.get(self.sign, False)


def verdict(rows: Sequence[Row], setting: Setting) -> Verdict:
    """What `rows`, one per finished epoch, say: the first of `CHECKS` that says something."""
    if not rows:
        return Verdict("too early", "no epoch has ended yet")
    for check in CHECKS:
        if (sentence := check(rows, setting)) is not None:
            return Verdict(_SIGNS[check], sentence)
    if len(rows) < PATIENCE_EPOCHS or _value(rows[-1], "queue_fill", 1.0) < 1:
        return Verdict("too early", "no sign of trouble yet")
    for check in PATIENT_CHECKS:
        if (sentence := check(rows, setting)) is not None:
            return Verdict(_SIGNS[check], sentence)
    loss = _value(rows[-1], "loss", math.nan)
    return Verdict("learning", f"the loss is {loss:.2f}, that of guessing {setting.guessing:.2f}; nothing looks wrong")


def told(rows: Sequence[Row], setting: Setting) -> tuple[str, str | None]:
    """(the word, a line for the log where something is wrong)."""
    found = verdict(rows, setting)
    return found.sign, f"{found.sign}: {found.sentence}" if found.good is False else None


def movement(row: Row, setting: Setting) -> float | None:
    """How far a step moves the weights in one direction, as a share of their length; None where it wasn't measured.

    The key encoder is an average of about 1 / (1 - m) steps: so far, or as far as the run has gone, it lies behind.
    """
    lag, step = row.get("key_lag"), _value(row, "step", 0.0)
    if lag is None or step < 1:
        return None
    m = setting.momentum_after(_value(row, "epoch", 0.0))
    return float(lag) / min(step, 1 / max(1 - m, 1e-9))


def _temperature(rows: Sequence[Row], setting: Setting) -> str | None:
    worst = max(_value(row, "loss", 0.0) for row in rows) / setting.guessing
    if worst > ABOVE_GUESSING and setting.temperature < LOW_TEMPERATURE:
        return (
            f"the loss was {worst:.1f} times that of guessing: model.temperature {setting.temperature:g} makes a "
            "certainty of every small difference; raise it (0.07 to 0.2 are usual)"
        )
    if setting.least_loss > BEST_OF_GUESSING * setting.guessing:
        return (
            f"with model.temperature {setting.temperature:g} even a perfect network has a loss of "
            f"{setting.least_loss:.2f}, guessing {setting.guessing:.2f}; lower it (0.07 to 0.2 are usual)"
        )
    return None


def _too_fast(rows: Sequence[Row], setting: Setting) -> str | None:
    moved = max((found for row in rows if (found := movement(row, setting)) is not None), default=0.0)
    row = rows[-1]
    flat = _value(row, "embedding_std", 1.0) < FLAT_STD or _value(row, "effective_rank", 99.0) < FEW_DIMENSIONS
    if moved > FAST and flat:
        return (
            f"a step moved the weights by {moved:.0%} of their length and little is left of the embeddings: "
            "lower --optimizer.lr tenfold"
        )
    return None


def _collapse(rows: Sequence[Row], setting: Setting) -> str | None:
    std = _value(rows[-1], "embedding_std", 1.0)
    if std < FLAT_STD:
        return (
            f"the embeddings have become almost one point (embedding_std {std:.3f}, a sphere has 1): check that the "
            "images differ and the views too (moco preview), then lower --optimizer.lr"
        )
    return None


def _too_slow(rows: Sequence[Row], setting: Setting) -> str | None:
    moved = max((found for row in rows if (found := movement(row, setting)) is not None), default=math.inf)
    if _guesses(rows, setting) and moved < SLOW:
        return (
            f"the loss is that of guessing ({setting.guessing:.2f}) and a step moves the weights by {moved:.1g} of "
            "their length: raise --optimizer.lr tenfold"
        )
    return None


def _guessing(rows: Sequence[Row], setting: Setting) -> str | None:
    if _guesses(rows, setting):
        return (
            f"not learning: the loss is still that of guessing, log(1+K) = {setting.guessing:.2f}; change "
            "--optimizer.lr, or lower --model.momentum for short runs"
        )
    return None


def _drift(rows: Sequence[Row], setting: Setting) -> str | None:
    row = _newest(rows, BATCH, RUNNING)
    top1, batch, running = (_value(row, name, 0.0) for name in ("contrast_top1", BATCH, RUNNING))
    if not row or top1 - max(batch, running) <= DRIFT:
        return None
    return (
        f"{top1:.0%} of the positives are told from the queue's older keys, but {running:.0%} from fresh keys of other "
        "images: the encoder changes and tells no images apart; check that they differ, then lower --optimizer.lr"
    )


def _leak(rows: Sequence[Row], setting: Setting) -> str | None:
    row = _newest(rows, BATCH, SHUFFLED, RUNNING)
    batch, shuffled, running = (_value(row, name, 0.0) for name in (BATCH, SHUFFLED, RUNNING))
    without = max(shuffled, running)
    if batch - without > LEAK:
        return (
            f"batch-norm gives the positives away: {batch:.0%} are found by the batch's statistics, {without:.0%} "
            "without them; give --model.bn_splits 8 (or a number that divides the batch), or a larger batch"
        )
    return None


def _too_easy(rows: Sequence[Row], setting: Setting) -> str | None:
    row = rows[-1]
    top1, similarity = _value(row, "contrast_top1", 0.0), _value(row, "positive_similarity", 0.0)
    if top1 > EASY_TOP1 and similarity > EASY_SIMILARITY:
        return (
            f"{top1:.0%} of the positives are found and they are {similarity:.2f} alike: the two views hardly differ; "
            "look at them (moco preview), take --views.pipeline v2, smaller --views.scale_min, or a larger queue"
        )
    return None


Check = Callable[[Sequence[Row], Setting], "str | None"]
_SIGNS: dict[Check, Sign] = {
    _temperature: "temperature", _too_fast: "lr too high", _collapse: "collapse", _too_slow: "lr too low",
    _guessing: "guessing", _too_easy: "too easy", _drift: "collapse", _leak: "leak",
}  # fmt: skip
CHECKS: tuple[Check, ...] = (_temperature, _too_fast, _collapse)  # in this order; from the first epoch on
PATIENT_CHECKS: tuple[Check, ...] = (_too_slow, _guessing, _too_easy, _drift, _leak)


def _guesses(rows: Sequence[Row], setting: Setting) -> bool:
    """Whether no epoch behind the first (whose queue began with random keys) was better than guessing."""
    return min(_value(row, "loss", 0.0) for row in rows[1:]) > GUESSING * setting.guessing


def _newest(rows: Sequence[Row], *names: str) -> Row:
    """The last row that has all of these, which aren't measured every epoch; an empty one where none has."""
    return next((row for row in reversed(rows) if all(row.get(name) is not None for name in names)), {})


def _value(row: Row, name: str, missing: float) -> float:
    value = row.get(name)
    return missing if value is None else float(value)
