"""Is it learning, has it collapsed: numbers that need no labels (`verdict.py` says what they mean)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from moco.model.moco import MoCo
from moco.threads import operations_on


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
    yield "key_lag", key_lag(model)


@torch.no_grad()
def key_lag(model: MoCo) -> float:
    """How far the key encoder's parameters lie behind the query encoder's, as a share of their length.

    About rate times m / (1 - m) of what a step moves: 0 where nothing is learned, whatever the reason.
    """
    theta_q: list[Tensor] = [*model.encoder_q.backbone.parameters(), *model.encoder_q.head.parameters()]
    theta_k: list[Tensor] = list(model.encoder_k.parameters())
    with operations_on(1):  # the same bits for any number of threads
        apart = torch.stack(torch._foreach_norm(torch._foreach_sub(theta_q, theta_k))).double().norm()
        length = torch.stack(torch._foreach_norm(theta_k)).double().norm()
    return (apart / length.clamp(min=1e-30)).item()
