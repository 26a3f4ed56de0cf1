"""The half cosine that learning rates fall along, and the key encoder's momentum rises along."""

from __future__ import annotations

import math


def cosine(progress: float) -> float:
    """From 1 at `progress` 0 to 0 at 1 (SGDR, Loshchilov & Hutter 2017, without restarts)."""
    return (1 + math.cos(math.pi * progress)) / 2


def momentum(start: float, end: float, progress: float) -> float:
    """m of the key encoder: from `start` at `progress` 0 to `end` at 1 (BYOL, arXiv:2006.07733, 3.2)."""
    return end - (end - start) * cosine(progress)
