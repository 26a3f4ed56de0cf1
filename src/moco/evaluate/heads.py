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
    def of(cls, features: Tensor) -> Standard:
        """The scale of `features` float32 (N, F)."""
        variance, mean = torch.var_mean(features, 0, correction=0)
        std = variance.sqrt()
        alive = std > 1e-6 * std.max()
        inverse = torch.where(alive, 1 / (std * math.sqrt(features.shape[1])), 0.0)
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


def train_heads(
    heads: Heads,
    z: Tensor,
    labels: Tensor,
    rows: Tensor,
    epochs: int,
    batch_size: int,
    seed: int,
    stage: int,
    after_epoch: Callable[[int, Tensor, float], None],
) -> None:
    """Train on the `rows` int64 (n,) of standardised `z` (N, F) with `labels` int64 (N,).

    Every epoch takes each of them once, in an order that is a function of (seed, stage, epoch).

    `after_epoch` gets the epoch from 0, the mean losses (G,) of its batches and the cosine's factor in it.
    """
    batches = math.ceil(len(rows) / batch_size)
    total = epochs * batches
    for epoch in range(epochs):
        order = rows[torch.from_numpy(permutation(len(rows), seed, Purpose.PROBE_ORDER, stage, epoch)).to(z.device)]
        losses = torch.zeros_like(heads.lr)
        for batch, chosen in enumerate(order.tensor_split(batches)):
            rate = 0.5 * (1 + math.cos(math.pi * (epoch * batches + batch) / total))
            losses += heads.step(z[chosen], labels[chosen], rate) / batches
        after_epoch(epoch, losses, rate)
