"""Multinomial logistic regression on features: the seed implementation's monitor, on the device in seconds.

The problem is scikit-learn's `LogisticRegression` with its defaults: sum of cross-entropies + |W|^2 / (2 C),
the bias not penalised. It is convex, so another solver reaches the same accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Logistic:
    """A fitted classifier: weight (classes, F), bias (classes,)."""

    weight: Tensor
    bias: Tensor

    def predict(self, features: Tensor) -> Tensor:
        """Classes of `features` (N, F), int64 (N,)."""
        return F.linear(features, self.weight, self.bias).argmax(1)

    def top1(self, features: Tensor, labels: Tensor) -> float:
        """Share of `features` (N, F) classified as `labels` (N,), from 0 to 1."""
        return (self.predict(features) == labels).float().mean().item()


def fit_logistic(
    features: Tensor, labels: Tensor, classes: int, inverse_penalty: float = 1.0, max_iterations: int = 300
) -> Logistic:
    """Minimise by L-BFGS from zero. `features` float32 (N, F), `labels` int64 (N,).

    The solver works on centred features divided by one common scale: the same problem (the bias is free and the
    penalty is scaled along), better conditioned.
    """
    features = features.detach()
    centre = features.mean(0)
    scale = (features - centre).pow(2).mean().sqrt().clamp(min=1e-12)
    x = (features - centre) / scale
    weight = x.new_zeros(classes, x.shape[1], requires_grad=True)
    bias = x.new_zeros(classes, requires_grad=True)
    penalty = 1 / (2 * inverse_penalty * scale.item() ** 2 * len(x))
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=max_iterations, tolerance_grad=1e-5, tolerance_change=1e-8,
        history_size=20, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        solver.zero_grad()
        objective = F.cross_entropy(F.linear(x, weight, bias), labels) + penalty * weight.pow(2).sum()
        objective.backward()
        return objective

    with torch.enable_grad():
        solver.step(closure)
    w = weight.detach() / scale
    return Logistic(w, bias.detach() - w @ centre)
