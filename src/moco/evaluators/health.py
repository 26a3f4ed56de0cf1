"""Is it learning, has it collapsed: numbers that need no labels, and one plain sentence when they say so."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from moco.model.moco import MoCo

PATIENCE_EPOCHS = 3


@torch.no_grad()
def spread(embeddings: Tensor) -> tuple[float, float]:
    """How far apart unit `embeddings` (N, dim) lie: (standard deviation, effective rank).

    The standard deviation is the mean over dimensions times sqrt(dim): 1 for a uniform sphere, 0 for a point.
    The effective rank is exp(entropy of the covariance's normalised spectrum), from 1 to dim (Roy & Vetterli 2007).
    """
    centred = embeddings.float() - embeddings.float().mean(0)
    std = centred.std(0, correction=0).mean().item() * math.sqrt(embeddings.shape[1])
    spectrum = torch.linalg.eigvalsh((centred.T @ centred).double()).clamp(min=0)
    total = spectrum.sum().item()
    if total <= 0:
        return std, 1.0
    share = spectrum / total
    entropy = -(share * share.clamp(min=1e-30).log()).sum().item()
    return std, math.exp(entropy)


def queue_health(model: MoCo, keys_enqueued: int) -> Iterable[tuple[str, float]]:
    """Health columns from the keys in the queue: no labels and no extra forward pass."""
    size = len(model.queue)
    filled = min(keys_enqueued, size)
    std, rank = spread(model.queue[:filled])
    yield "embedding_std", std
    yield "effective_rank", rank
    yield "queue_fill", filled / size


def diagnose(row: Mapping[str, float | None], queue_size: int) -> str | None:
    """One sentence if the metrics `row` of an epoch says that something is wrong, else None."""
    if _value(row, "embedding_std", 1.0) < 0.1 or _value(row, "effective_rank", 9.0) < 1.5:
        return (
            "collapse: the embeddings have become almost one point; "
            "lower --optimizer.lr, and check that the views differ (moco preview)"
        )
    if _value(row, "queue_fill", 0.0) < 1 or _value(row, "epoch", 0.0) < PATIENCE_EPOCHS:
        return None
    if _value(row, "loss", 0.0) > 0.98 * math.log(1 + queue_size):
        return (
            f"not learning: the loss is still that of guessing, log(1+K) = {math.log(1 + queue_size):.2f}; "
            "change --optimizer.lr (too high is the usual reason), or lower --model.momentum for short runs"
        )
    if _value(row, "contrast_top1", 0.0) > 0.98 and _value(row, "loss", 9.0) < 0.5:
        return (
            "the positives are found almost without fail: the task is too easy or leaks through batch-norm; "
            "try --model.bn_splits 8, stronger views or a larger queue"
        )
    return None


def _value(row: Mapping[str, float | None], name: str, missing: float) -> float:
    value = row.get(name)
    return missing if value is None else value
