"""Multinomial logistic regression on features: the seed implementation's monitor, on the device in seconds.

The problem is scikit-learn's `LogisticRegression` with its defaults: sum of cross-entropies + |W|^2 / (2 C),
the bias not penalised. It is convex, so another solver reaches the same accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.evaluators.features import BLOCK_VALUES, Features, LabelledFeatures
from moco.evaluators.sample import sample

MOST_IMAGES = 2**17  # that it is fitted on: all of ImageNet-100, a tenth of ImageNet
HISTORY_VALUES = 2**28  # of L-BFGS, 1 GiB


@dataclass(frozen=True)
class Logistic:
    """A fitted classifier: weight (classes, F), bias (classes,)."""

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """(N, classes) of `features` (N, F)."""
        return F.linear(features, self.weight, self.bias)

    def predict(self, features: Tensor) -> Tensor:
        """Classes of `features` (N, F), int64 (N,)."""
        return self.logits(features).argmax(1)


def drawn(split: LabelledFeatures) -> LabelledFeatures:
    """What the regression is fitted on: all of `split`, or `MOST_IMAGES` of it, always the same ones."""
    if len(split) <= MOST_IMAGES:
        return split
    chosen = torch.from_numpy(sample(len(split), MOST_IMAGES)).to(split.labels.device)
    return LabelledFeatures(Features.of(split.features.rows(chosen)), split.labels[chosen], split.classes)


def fit_logistic(split: LabelledFeatures, inverse_penalty: float = 1.0, max_iterations: int = 300) -> Logistic:
    """Minimise by L-BFGS from zero, on the first view's features.

    The solver works on centred features divided by one common scale: the same problem (the bias is free and the
    penalty is scaled along), better conditioned. Logits are computed a block of images at a time.
    """
    classes, labels = len(split.classes), split.labels
    x, centre, scale = _centred(split.features)
    weight = x.new_zeros(classes, x.shape[1], requires_grad=True)
    bias = x.new_zeros(classes, requires_grad=True)
    penalty = 1 / (2 * inverse_penalty * scale.item() ** 2 * len(x))
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=max_iterations, tolerance_grad=1e-5, tolerance_change=1e-8,
        history_size=_history(weight.numel()), line_search_fn="strong_wolfe",
    )  # fmt: skip
    blocks = list(zip(*(values.split(max(1, BLOCK_VALUES // classes)) for values in (x, labels))))

    def closure() -> Tensor:
        solver.zero_grad()
        objective = penalty * weight.pow(2).sum()
        for features, true in blocks[:-1]:
            part = F.cross_entropy(F.linear(features, weight, bias), true) * (len(true) / len(x))
            part.backward()  # at once, so that one block's logits are held and no more
            objective = objective + part.detach()
        features, true = blocks[-1]
        last = F.cross_entropy(F.linear(features, weight, bias), true) * (len(true) / len(x)) + objective
        last.backward()
        return last

    with torch.enable_grad():
        solver.step(closure)
    w = weight.detach() / scale
    return Logistic(w, bias.detach() - w @ centre)


def _centred(features: Features) -> tuple[Tensor, Tensor, Tensor]:
    """(z float (N, F), centre (F,), scale ()) of the first view x: z = (x - centre) / scale, mean square 1."""
    if features.exact:
        x = features.values[0].detach()
    else:
        x = features.rows(torch.arange(len(features)))
    centre = x.mean(0)
    x = x - centre
    scale = x.pow(2).mean().sqrt().clamp(min=1e-12)
    return x.div_(scale), centre, scale


def _history(parameters: int) -> int:
    """Steps that L-BFGS remembers, each two vectors of `parameters` values: fewer for very many classes."""
    return max(5, min(20, HISTORY_VALUES // (2 * parameters)))
