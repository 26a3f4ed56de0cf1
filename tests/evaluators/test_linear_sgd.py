"""The literature's protocol: what it does is a plain loop over frozen features of augmented views."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from moco.errors import UserError
from moco.evaluators.classifier import top1
from moco.evaluators.features import Features
from moco.evaluators.frozen import Frozen
from moco.evaluators.linear_options import SgdOptions
from moco.evaluators.linear_sgd import Sgd, default_lr, linear_sgd, schedule_factor
from moco.evaluators.logistic import fit_logistic
from moco.evaluators.proof import proven
from moco.randomness import Purpose, permutation
from moco.views.make import random_view
from moco.views.pipelines import Pipeline

SIZE_PX = 12


def fit(frozen: Frozen, train: Any, val: Any, **options: Any) -> tuple[Sgd, list[int]]:
    reported: list[int] = []
    with proven(frozen.backbone) as proof:
        fitted = linear_sgd(frozen, train, val, SgdOptions(**options), proof, lambda rows: reported.append(len(rows)))
    assert proof.trained == {"weight": [3, 8], "bias": [3]}
    return fitted, reported


def test_it_learns_and_the_backbone_stays_in_evaluation_mode(frozen: Frozen, train: Any, val: Any) -> None:
    backbone = frozen.backbone.train()
    fitted, reported = fit(frozen, train, val, epochs=20, batch_size=16)
    assert backbone.training and int(backbone.norm.num_batches_tracked) == 0
    assert reported == list(range(1, 21))
    assert fitted.rows[-1]["loss"] < fitted.rows[0]["loss"]  # type: ignore[operator]
    assert fitted.rows[-1]["val_top1"] > 0.9  # type: ignore[operator]
    assert not fitted.weight.requires_grad


def test_it_is_the_plain_loop(frozen: Frozen, train: Any, val: Any) -> None:
    fitted, _ = fit(frozen, train, val, epochs=2, batch_size=20, lr=0.3, weight_decay=0.01, seed=5)
    linear = nn.Linear(8, 3)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    solver = torch.optim.SGD(linear.parameters(), lr=0.3, momentum=0.9, weight_decay=0.01)
    pipeline = Pipeline(SIZE_PX, scale=(0.08, 1.0))
    for epoch in range(2):
        solver.param_groups[0]["lr"] = 0.3 * 0.5 * (1 + math.cos(math.pi * epoch / 2))
        total = 0.0
        for images in np.array_split(permutation(50, 5, Purpose.PROBE_ORDER, epoch), 3):
            views = random_view(train.images, images, pipeline, 5, epoch, 0, Purpose.PROBE_VIEW)
            loss = F.cross_entropy(linear(frozen.backbone(views)), train.labels[images])
            solver.zero_grad()
            loss.backward()
            solver.step()
            total += loss.item() * len(images)
        assert fitted.rows[epoch]["loss"] == pytest.approx(total / 50, rel=1e-5)
    torch.testing.assert_close(fitted.weight, linear.weight.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(fitted.bias, linear.bias.detach(), rtol=1e-4, atol=1e-6)
    assert fitted.rows[-1]["val_top1"] == top1(lambda x: F.linear(x, fitted.weight, fitted.bias), frozen.measured(val))


def test_it_can_start_from_the_logistic_regression(frozen: Frozen, train: Any, val: Any) -> None:
    fitted, _ = fit(frozen, train, val, epochs=1, init="logistic", lr=1e-9)
    measured = frozen.measured(train)
    logistic = fit_logistic(measured)
    torch.testing.assert_close(fitted.weight, logistic.weight, rtol=1e-4, atol=1e-5)
    assert fitted.rows[0]["train_top1"] == top1(logistic.logits, measured)


def test_a_loss_that_is_not_finite_stops_it(frozen: Frozen, train: Any, val: Any) -> None:
    with pytest.raises(UserError, match="lower --lr"):
        fit(frozen, train, val, epochs=3, batch_size=5, lr=1e38)


def test_the_default_rate_follows_the_features_length() -> None:
    features = torch.randn(100, 8)
    assert default_lr(Features.of(10 * features)) == pytest.approx(default_lr(Features.of(features)) / 100, rel=1e-5)
    assert math.isfinite(default_lr(Features.of(torch.zeros(4, 8))))


def test_the_schedules() -> None:
    steps = [schedule_factor("step", epoch, 100) for epoch in (0, 59, 60, 79, 80, 99)]
    assert steps == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])  # MoCo v1 section 4.1
    assert [schedule_factor("cosine", e, 200) for e in (0, 100)] == pytest.approx([1, 0.5])
    assert schedule_factor("cosine", 1, 200) == pytest.approx(0.029998149518066786 / 0.03, abs=1e-4)
