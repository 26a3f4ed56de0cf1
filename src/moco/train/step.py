"""One training step: the only place where the encoders and the queue change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from moco.model.loss import info_nce
from moco.model.moco import MoCo
from moco.randomness import Purpose, permutation, torch_seed
from moco.runtime import Runtime


@dataclass(frozen=True)
class StepStats:
    """What one step saw, as scalars on the device (reading them is a host sync, so the loop sums first).

    Attributes:
        loss: InfoNCE, mean over the batch.
        top1: share of queries whose positive is the most similar.
        positive: mean cosine similarity of query and key.
        negative: mean cosine similarity of query and queue.
    """

    loss: Tensor
    top1: Tensor
    positive: Tensor
    negative: Tensor


def train_step(
    model: MoCo,
    optimizer: torch.optim.Optimizer,
    runtime: Runtime,
    views: tuple[Tensor, Tensor],
    key_order: Tensor | None,
    symmetric: bool,
    guard: Callable[[Tensor], None],
) -> StepStats:
    """Algorithm 1 of the paper, in its order.

    Args:
        views: the two views, each (N, 3, H, W).
        key_order: (N,) shuffle of the keys between batch-norm parts, or None.
        symmetric: each view is query and key once; the loss is the mean of both, and both keys enter the queue.
        guard: called with the loss before it reaches the weights; raises to stop.
    """
    first, second = views
    model.update_key_encoder()  # theta_k <- m theta_k + (1 - m) theta_q
    with runtime.autocast():
        logits, keys = model(first, second, key_order)  # against the OLD queue
        loss = info_nce(logits)
        stats = _stats(logits.detach(), loss.detach(), model.T)
        if symmetric:
            logits, more = model(second, first, key_order)
            loss = (loss + info_nce(logits)) / 2
            keys = torch.cat([keys, more])
            stats = _mean(stats, _stats(logits.detach(), 2 * loss.detach() - stats.loss, model.T))
    guard(loss)
    optimizer.zero_grad(set_to_none=True)
    runtime.backward(loss)
    optimizer.step()  # theta_q
    model.enqueue(keys)  # the oldest keys leave
    return stats


@dataclass(frozen=True)
class MoCoStep:
    """`train_step` with what it draws, each draw a function of (seed, step)."""

    model: MoCo
    optimizer: torch.optim.Optimizer
    runtime: Runtime
    guard: Callable[[Tensor], None]
    seed: int
    symmetric: bool

    def __call__(self, views: tuple[Tensor, ...], step: int) -> StepStats:
        """The step number `step` (from 0) on two views, each (N, 3, H, W)."""
        first, second = views
        self.runtime.begin_step()
        torch.manual_seed(torch_seed(self.seed, Purpose.DROPOUT, step))
        key_order = None
        if self.model.bn_splits > 1:
            shuffled = permutation(len(first), self.seed, Purpose.BN_SHUFFLE, step)
            key_order = torch.from_numpy(shuffled).to(self.runtime.device, non_blocking=True)
        return train_step(
            self.model, self.optimizer, self.runtime, (first, second), key_order, self.symmetric, self.guard
        )


def _stats(logits: Tensor, loss: Tensor, temperature: float) -> StepStats:
    positive = logits[:, 0]
    top1 = (logits.argmax(1) == 0).float().mean()
    return StepStats(loss, top1, positive.mean() * temperature, logits[:, 1:].mean() * temperature)


def _mean(a: StepStats, b: StepStats) -> StepStats:
    return StepStats(*((x + y) / 2 for x, y in zip(vars(a).values(), vars(b).values())))
