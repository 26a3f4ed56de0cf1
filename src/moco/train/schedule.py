"""The learning rate at a step: a pure function."""

from __future__ import annotations

from moco.config import ScheduleConfig
from moco.cosine import cosine


def learning_rate(config: ScheduleConfig, peak: float, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The rate for `step` (0-based over the whole run).

    `per: epoch` holds it for an epoch, as in the paper's code: epoch e of E (0-based) of a cosine has
    min + (peak - min) (1 + cos(pi e / E)) / 2. Warm-up is linear from zero, step by step in either case (an epoch's
    warm-up held for an epoch would be none), and the cosine begins after it.
    """
    now = step / steps_per_epoch
    if now < config.warmup_epochs:
        return peak * min((step + 1) / steps_per_epoch / config.warmup_epochs, 1.0)
    epoch = now if config.per == "step" else float(step // steps_per_epoch)
    if config.name == "step":
        return peak * config.gamma ** sum(epoch >= milestone for milestone in config.milestone_epochs)
    progress = max(epoch - config.warmup_epochs, 0.0) / (epochs - config.warmup_epochs)
    return config.min_lr + (peak - config.min_lr) * cosine(progress)
