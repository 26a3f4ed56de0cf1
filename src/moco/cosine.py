"""The half cosine that learning rates fall along."""

from __future__ import annotations

import math


def cosine(progress: float) -> float:
    """From 1 at `progress` 0 to 0 at 1 (SGDR, Loshchilov & Hutter 2017, without restarts)."""
    return (1 + math.cos(math.pi * progress)) / 2
