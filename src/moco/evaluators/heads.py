"""Many linear classifiers on the same features, trained at once: one per learning rate and weight decay.

All heads see the same minibatch, so a step is one matrix product forward, (B, F) @ (F, C*G), and one for the
gradient, (F, B) @ (B, C*G), whatever the number of heads G.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from moco.cosine import cosine
from moco.evaluators.features import Features
from moco.randomness import Purpose, permutation

MOMENTUM = 0.9


@dataclass(frozen=True)
class Standard:
    """The scale that features are trained at: z = (x - mean) * inverse, of unit mean squared length.

    With it a learning rate means the same for any backbone: wide or narrow, large features or small.

    Attributes:
        mean, inverse: float32 (F,). `inverse` is 1 / (standard deviation * sqrt(F)), 0 for a constant dimension.
    """

    mean: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, features: Features) -> Standard:
        """The scale of all views' `features`."""
        variance, mean = _moments(features)
        std = variance.sqrt()
        alive = std > 1e-6 * std.max()
        inverse = torch.where(alive, 1 / (std * math.sqrt(features.width)), 0.0)
        return cls(mean, inverse)

    def apply(self, features: Tensor) -> Tensor:
        """z of `features` (N, F)."""
        return (features - self.mean) * self.inverse

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """(weight (C, F), bias (C,)) that give on x what `weight` (F, C), `bias` (C,) give on z."""
        folded = (weight * self.inverse[:, None]).T.contiguous()
        return folded, bias - folded @ self.mean


class Heads:
    """G linear classifiers, SGD with momentum and a cosine to zero, each with its own rate and decay.

    Attributes:
        weight: float32 (F, C, G), from zero.
        bias: float32 (C, G), from zero, not decayed.
    """

    def __init__(self, features: int, classes: int, lr: Tensor, weight_decay: Tensor) -> None:
        """`lr` and `weight_decay` are float32 (G,), on the device to train on."""
        self.lr, self.weight_decay = lr, weight_decay
        self.weight = lr.new_zeros(features, classes, len(lr))
        self.bias = lr.new_zeros(classes, len(lr))
        self._velocity = torch.zeros_like(self.weight), torch.zeros_like(self.bias)

    def logits(self, z: Tensor) -> Tensor:
        """float32 (N, C, G) of `z` (N, F); the product is computed in z's type."""
        product = z @ self.weight.flatten(1).to(z.dtype)  # (N, C*G)
        return product.float().view(len(z), *self.bias.shape) + self.bias

    def step(self, z: Tensor, labels: Tensor, rate: float) -> Tensor:
        """One gradient step at `rate` times each head's learning rate; the losses before it, float32 (G,)."""
        p = self.logits(z).softmax(1)  # (B, C, G)
        true = labels.view(-1, 1, 1).expand(-1, 1, p.shape[2])
        losses = -p.gather(1, true).clamp(min=1e-30).log().mean((0, 1))
        p.scatter_add_(1, true, p.new_full((1, 1, 1), -1.0).expand(true.shape))  # d loss / d logits, times B
        p /= len(z)
        gradient = (z.T @ p.flatten(1).to(z.dtype)).view_as(self.weight)
        for value, velocity, grad in zip((self.weight, self.bias), self._velocity, (gradient, p.sum(0))):
            velocity.mul_(MOMENTUM).add_(grad)
            if value is self.weight:
                velocity.addcmul_(value, self.weight_decay)
            value.addcmul_(velocity, self.lr, value=-rate)
        return losses


@dataclass(frozen=True)
class Table:
    """What heads are trained on: `features` at the scale `standard`, computed in `dtype`, with labels int64 (N,)."""

    features: Features
    labels: Tensor
    standard: Standard
    dtype: torch.dtype

    def rows(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """(z (n, F), labels (n,)) of the rows int64 (n,); row v * N + i is view v of image i."""
        z = self.standard.apply(self.features.rows(numbers)).to(self.dtype)
        return z, self.labels[numbers % len(self.labels)]


@dataclass(frozen=True)
class Passes:
    """How often, and in which order: every epoch takes each row once, in an order of (seed, stage, epoch)."""

    epochs: int
    batch_size: int
    seed: int
    stage: int


def train_heads(
    heads: Heads, table: Table, rows: Tensor, passes: Passes, after_epoch: Callable[[int, Tensor, float], None]
) -> None:
    """Train on the `rows` int64 (n,) of the table.

    `after_epoch` gets the epoch from 0, the mean losses (G,) of its batches and the cosine's factor in it.
    """
    batches = math.ceil(len(rows) / passes.batch_size)
    total = passes.epochs * batches
    for epoch in range(passes.epochs):
        drawn = permutation(len(rows), passes.seed, Purpose.PROBE_ORDER, passes.stage, epoch)
        order = rows[torch.from_numpy(drawn).to(rows.device)]
        losses = torch.zeros_like(heads.lr)
        for batch, chosen in enumerate(order.tensor_split(batches)):
            rate = cosine((epoch * batches + batch) / total)
            losses += heads.step(*table.rows(chosen), rate) / batches
        after_epoch(epoch, losses, rate)


def _moments(features: Features) -> tuple[Tensor, Tensor]:
    """(variance, mean), float32 (F,), over all views; in float64 and a block at a time where they are not exact."""
    if features.exact:
        variance, mean = torch.var_mean(features.values.flatten(0, 1), 0, correction=0)
        return variance, mean
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for _, block in features.blocks(None):
        variance, centre = torch.var_mean(block.double(), 0, correction=0)
        if not count:
            mean, squares = torch.zeros_like(centre), torch.zeros_like(centre)
        both = count + len(block)  # Chan et al. 1979: two parts' moments make the whole's
        squares = squares + variance * len(block) + (centre - mean) ** 2 * (count * len(block) / both)
        mean = mean + (centre - mean) * (len(block) / both)
        count = both
    return (squares / count).float(), mean.float()
