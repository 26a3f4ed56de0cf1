"""Supervised training of a whole network: its batches, views, loss and step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from moco.config import OptimizerConfig, RuntimeConfig
from moco.data.sampler import Batch
from moco.model.tuned import Tuned
from moco.runtime import Runtime
from moco.threads import Threads
from moco.train.optimizer import build_optimizer, set_lr
from moco.train.tuning import LabelledOrder, LabelledViews, TuneStep, class_weights
from moco.views.pipelines import Pipeline
from moco.views.ragged import Ragged

IMAGES = np.array([2, 3, 5, 7, 11, 13, 17, 19])
CLASSES = np.array([0, 0, 0, 0, 0, 1, 0, 1])


def order(balanced: bool) -> LabelledOrder:
    return LabelledOrder(IMAGES, CLASSES, 20, 4, 0, balanced)


def test_an_epoch_has_each_labelled_image_once() -> None:
    batches = order(False).order(3)
    assert batches.shape == (2, 4)
    assert sorted(batches.ravel()) == IMAGES.tolist()
    assert np.array_equal(batches, order(False).order(3))
    assert not np.array_equal(batches, order(False).order(4))


def test_balanced_every_class_comes_equally_often_each_time_with_a_number_of_its_own() -> None:
    class_of = dict(zip(IMAGES.tolist(), CLASSES.tolist()))
    seen: set[int] = set()
    for epoch in range(20):
        numbers = order(True).order(epoch).ravel()
        assert len(set(numbers.tolist())) == 8
        assert [class_of[n % 20] for n in numbers.tolist()].count(1) == 4
        assert {n % 20 for n in numbers.tolist() if class_of[n % 20] == 1} == {13, 19}
        seen |= {n % 20 for n in numbers.tolist()}
    assert seen == set(IMAGES.tolist())  # those of the large class take turns


def test_the_losss_weights_make_classes_equal() -> None:
    weights = class_weights(np.array([0, 0, 0, 2]), 3)
    assert weights.tolist() == pytest.approx([4 / (2 * 3), 0, 4 / 2])
    assert (weights * [3, 0, 1]).sum() == pytest.approx(4)


def source(count: int) -> Ragged:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, 3 * 24 * 24 * count, np.uint8))
    size = np.full(count, 24, np.int32)
    return Ragged(pixels, np.arange(count) * 3 * 24 * 24, size, size)


def test_a_view_is_a_function_of_seed_epoch_and_number_and_a_second_time_is_another_view() -> None:
    views = LabelledViews(source(4), Pipeline(16, (0.08, 1.0)), 7, Threads(1))
    (first,) = views(Batch(np.array([1, 3, 5]), 2, 0))
    (again,) = views(Batch(np.array([3, 1]), 2, 0))
    torch.testing.assert_close(first[[1, 0]], again, rtol=0, atol=0)
    assert not torch.equal(first[0], first[2])  # 5 is image 1 for the second time
    assert not torch.equal(first[0], views(Batch(np.array([1]), 3, 0))[0][0])


def test_a_step_is_cross_entropys_with_rates_of_their_own() -> None:
    torch.manual_seed(1)
    body = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    model = Tuned(body, 5, 3).train()
    runtime = Runtime(RuntimeConfig(device="cpu", precision="float32"))
    optimizer = build_optimizer(body, OptimizerConfig(momentum=0.0, weight_decay=0.0))
    optimizer.add_param_group({"params": list(model.head.parameters()), "lr_scale": 10.0})
    set_lr(optimizer, 0.1)
    labels = torch.tensor([2, 0, 1])
    losses: list[float] = []
    weights = torch.tensor([1.0, 2.0, 0.5])
    step = TuneStep(model, optimizer, runtime, lambda loss: losses.append(loss.item()), labels, 0, weights)
    pictures = torch.randn(2, 3, 2, 2)
    stats = step((pictures,), Batch(np.array([4, 2]), 0, 0))  # images 1 and 2
    assert losses == [pytest.approx(np.log(3))] == [pytest.approx(stats.loss.item())]
    features = body(pictures).detach()
    true = labels[[1, 2]]
    weight = torch.zeros(3, 5, requires_grad=True)
    F.cross_entropy(F.linear(features, weight), true, weight=weights).backward()
    torch.testing.assert_close(model.head.weight.detach(), -1.0 * weight.grad)  # type: ignore[operator]
