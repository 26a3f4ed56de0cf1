"""One training step: the only place where the encoders and the queue change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco.data.sampler import Batch
from moco.model.moco import MoCo, info_nce
from moco.randomness import Purpose, torch_seed
from moco.runtime import Runtime
from moco.train.graph import StepOnGPU
from moco.train.muon import Muon
from moco.train.parts import Parts
from moco.views.make import key_order


@dataclass(frozen=True)
class StepStats:
    """What one step saw, as scalars on the device (reading them is a host sync, so the loop sums first).

    Attributes:
        loss: InfoNCE, mean over the batch.
        top1: share of queries whose positive is more similar than every key of the queue; a tie doesn't count.
        positive: mean cosine similarity of query and key.
        negative: mean cosine similarity of query and queue.
    """

    loss: Tensor
    top1: Tensor
    positive: Tensor
    negative: Tensor


def train_step(
    parts: Parts,
    model: MoCo,
    optimizer: torch.optim.Optimizer,
    views: tuple[Tensor, ...],
    key_order: Tensor | None,
    symmetric: bool,
    guard: Callable[[Tensor], None],
    seed: int | None = 0,
    images: Tensor | None = None,
    small: int = 0,
) -> StepStats:
    """Algorithm 1 of the paper, in its order.

    Args:
        parts: of `model`: what computes keys and gradients, the whole batch at once or part by part.
        views: the two views, each (N, 3, H, W), and the small ones; of several processes what `TrainingViews` makes.
        key_order: (N,) shuffle of the keys between the parts, or None.
        symmetric: each view is query and key once; the loss is the mean of both, and both keys enter the queue.
        guard: called with the loss before it reaches the weights; raises to stop.
        seed: of what the network draws in this step (dropout); None for one that draws nothing.
        images: numbers of the batch's images, int64 (N,): keys of an image are then no negatives of it.
        small: how many small views there are, the last ones: further queries, of the keys in turn.
    """
    full = views[: len(views) - small]
    queries = [*(full[:2] if symmetric else full[:1]), *views[len(full) :]]
    sources = [full[-1], full[-2]] if symmetric else [full[1]]  # of the keys
    optimizer.zero_grad(set_to_none=True)
    model.update_key_encoder()  # theta_k <- m theta_k + (1 - m) theta_q
    keys = parts.keys(sources, key_order, seed)  # (N, dim) each
    objective = partial(contrast, images=images)
    positives = [keys[number % len(keys)] for number in range(len(queries))]
    seen = parts.backward(objective, queries, positives, seed)  # logits against the OLD queue, loss, gradient
    stats = _mean(_of_all(parts, seen))
    guard(stats.loss)
    optimizer.step()  # theta_q
    model.enqueue(torch.cat(keys), None if images is None else images.repeat(len(keys)))  # the oldest keys leave
    return stats


def contrast(
    model: MoCo, queries: list[Tensor], keys: list[Tensor], rows: slice, images: Tensor | None = None
) -> tuple[Tensor, StepStats]:
    """The loss of some times n queries (n, 3, H, W), the mean over all, and what was seen.

    They are the `rows` of a batch whose images have the numbers `images`.
    """
    losses, seen = [], []
    for im_q, k in zip(queries, keys):
        shown = None if images is None else images[rows]
        logits = model.logits(im_q, k, shown)  # (n, 1+K), column 0 positive
        losses.append(info_nce(logits))
        seen.append(_stats(logits.detach(), losses[-1].detach(), model.T, shown is not None))
    return sum(losses[1:], losses[0]) / len(losses), _mean(seen)


@dataclass(frozen=True)
class MoCoStep:
    """`train_step` with what it draws, each draw a function of (seed, step).

    Attributes:
        shown: what each image shows, int64 (images,) on the device: keys of the same thing are no negatives of it.
            None: the paper's step, to which all keys are negatives.
        momentum: of the key encoder at a step; default: the model's own throughout.
        shuffle: the keys between the batch-norm parts.
        accumulate: so many pieces of the batch go through the encoders one after the other.
        record: on a GPU, whether steps are replayed as one CUDA graph where they can be.
        small: how many small views there are.
    """

    model: MoCo
    optimizer: torch.optim.Optimizer
    runtime: Runtime
    guard: Callable[[Tensor], None]
    seed: int
    symmetric: bool
    shown: Tensor | None = None
    momentum: Callable[[int], float] | None = None
    shuffle: bool = True
    accumulate: int = 1
    record: bool = True
    small: int = 0

    @cached_property
    def parts(self) -> Parts:
        """What computes keys and gradients, made at the first step."""
        return Parts(self.model, self.runtime, self.accumulate)

    def __call__(self, views: tuple[Tensor, ...], batch: Batch) -> StepStats:
        """The step on the views of `batch`, as `TrainingViews` makes them."""
        self.runtime.begin_step()
        shown = None
        if self.shown is not None:
            shown = self.shown[self._on_device(batch.images)]
        if self.momentum is not None:
            self.model.m = self.momentum(batch.step)
        order = None
        if self.model.bn_splits > 1 and self.shuffle:
            order = self._on_device(key_order(len(batch), self.seed, batch.step))
        seed = torch_seed(self.seed, Purpose.DROPOUT, batch.step)
        if self.runtime.device.type != "cuda" or not self._takes_rates:
            return self._computed(seed, order, shown, *views)
        return StepStats(*self._on_gpu(seed, order, shown, *views).unbind())

    def why_not_recorded(self) -> str:
        """Why the step can't be one CUDA graph, in a phrase; empty where it can."""
        if self.momentum is not None:
            return "model.momentum_end moves the momentum"
        if not self._takes_rates:
            return "optimizer.name lars keeps its rates on the host"
        if self.runtime.ranks.world > 1:
            return "several processes meet in it"
        if self.runtime.compile_mode == "reduce-overhead":
            return "runtime.compile reduce-overhead makes graphs of its own"
        return ""

    @property
    def _takes_rates(self) -> bool:
        """Whether the optimizer reads its rates on the device."""
        return isinstance(self.optimizer, torch.optim.SGD | torch.optim.AdamW | Muon)

    @cached_property
    def _on_gpu(self) -> StepOnGPU:
        def seen(seed: int | None, order: Tensor | None, shown: Tensor | None, *views: Tensor) -> Tensor:
            return torch.stack([*vars(self._computed(seed, order, shown, *views)).values()])

        return StepOnGPU(seen, self.model, self.optimizer, self.record and not self.why_not_recorded())

    def _computed(self, seed: int | None, order: Tensor | None, shown: Tensor | None, *views: Tensor) -> StepStats:
        return train_step(
            self.parts, self.model, self.optimizer, views, order, self.symmetric, self.guard, seed, shown, self.small
        )

    def _on_device(self, numbers: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(numbers).to(self.runtime.device, non_blocking=True)


def _stats(logits: Tensor, loss: Tensor, temperature: float, masked: bool) -> StepStats:
    positive, negatives = logits[:, 0], logits[:, 1:]
    top1 = (positive > negatives.amax(1)).float().mean()  # a tie is no find: in a collapse everything ties
    negative = _mean_of_finite(negatives) if masked else negatives.mean()
    return StepStats(loss, top1, positive.mean() * temperature, negative * temperature)


def _mean_of_finite(negatives: Tensor) -> Tensor:
    """The mean; what is masked (-inf) doesn't count. No host sync."""
    masked = negatives.isneginf()
    return negatives.masked_fill(masked, 0).sum() / (~masked).sum()


def _of_all(parts: Parts, seen: list[StepStats]) -> list[StepStats]:
    """What the parts of all processes saw, in their order."""
    if parts.everywhere == len(seen):
        return seen
    values = parts.gather(torch.stack([torch.stack([*vars(stats).values()]) for stats in seen]))
    return [StepStats(*row) for row in values]


def _mean(seen: list[StepStats]) -> StepStats:
    """Over several, in their order."""
    if len(seen) == 1:
        return seen[0]
    return StepStats(*(sum(values[1:], values[0]) / len(seen) for values in zip(*(vars(s).values() for s in seen))))
