"""The order of the step: momentum update, keys, logits against the old queue, gradient step, enqueue."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from moco import MoCo
from moco.config import OptimizerConfig, RuntimeConfig
from moco.errors import TrainingFailed
from moco.model.moco import info_nce
from moco.runtime import Runtime
from moco.train.guard import FiniteGuard
from moco.train.optimizer import build_optimizer
from moco.train.parts import Parts
from moco.train.step import train_step


def built() -> tuple[MoCo, torch.optim.Optimizer, Runtime]:
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = MoCo(backbone, dim=4, queue_size=12, momentum=0.5)
    return model, build_optimizer(model, OptimizerConfig(lr=0.5)), Runtime(RuntimeConfig("cpu", "float32"))


def views() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8)


def test_the_order_is_the_papers() -> None:
    model, optimizer, runtime = built()
    with torch.no_grad():  # query and key encoder differ, so that the order shows
        for p in model.encoder_q.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    before = copy.deepcopy(model)
    first, second = views()
    stats = train_step(Parts(model, runtime), model, optimizer, (first, second), None, False, lambda loss: None)

    before.update_key_encoder()
    logits, keys = before(first, second)
    torch.testing.assert_close(stats.loss, info_nce(logits).detach())
    torch.testing.assert_close(model.queue[:4], keys)
    assert torch.equal(model.queue[4:], before.queue[4:])
    for new, old in zip(model.encoder_k.parameters(), before.encoder_k.parameters()):
        assert torch.equal(new, old)  # moved before the gradient step, and not by it
    assert any(not torch.equal(n, o) for n, o in zip(model.encoder_q.parameters(), before.encoder_q.parameters()))


def test_a_positive_is_never_among_its_own_negatives() -> None:
    model, optimizer, runtime = built()
    first, second = views()
    seen: list[torch.Tensor] = []
    model.encoder_q.register_forward_hook(lambda *_: seen.append(model.queue.clone()))
    train_step(Parts(model, runtime), model, optimizer, (first, second), None, False, lambda loss: None)
    similarity = model.queue[:4] @ seen[0].T
    assert similarity.max() < 1 - 1e-4


def test_symmetric_uses_each_view_as_query_and_key() -> None:
    model, optimizer, runtime = built()
    before = copy.deepcopy(model)
    first, second = views()
    stats = train_step(Parts(model, runtime), model, optimizer, (first, second), None, True, lambda loss: None)
    before.update_key_encoder()
    a, key_a = before(first, second)
    b, key_b = before(second, first)
    torch.testing.assert_close(stats.loss, ((info_nce(a) + info_nce(b)) / 2).detach())
    torch.testing.assert_close(model.queue[:8], torch.cat([key_a, key_b]))


def test_small_views_are_further_queries_of_the_keys_in_turn() -> None:
    model, optimizer, runtime = built()
    before = copy.deepcopy(model)
    first, second = views()
    small = [torch.rand(4, 3, 5, 5) for _ in range(3)]
    parts = Parts(model, runtime)
    stats = train_step(parts, model, optimizer, (first, second, *small), None, True, lambda loss: None, small=3)
    before.update_key_encoder()
    of_second, of_first = before.keys(second), before.keys(first)
    pairs = [(first, of_second), (second, of_first), *zip(small, (of_second, of_first, of_second))]
    expected = torch.stack([info_nce(before.logits(query, key)) for query, key in pairs]).mean()
    torch.testing.assert_close(stats.loss, expected.detach())
    torch.testing.assert_close(model.queue[:8], torch.cat([of_second, of_first]))  # no small key
    assert torch.equal(model.queue[8:], before.queue[8:])


@pytest.mark.parametrize("symmetric", [False, True])
def test_under_total_collapse_no_positive_is_found(symmetric: bool) -> None:
    model, optimizer, runtime = built()
    one = nn.functional.normalize(torch.ones(1, 4))
    for encoder in (model.encoder_q, model.encoder_k):  # whatever goes in, the same point comes out
        encoder.forward = lambda images: one.expand(len(images), -1) + 0 * model.encoder_q.backbone[0].weight.sum()
    model.queue.copy_(one.expand_as(model.queue))
    stats = train_step(Parts(model, runtime), model, optimizer, views(), None, symmetric, lambda loss: None)
    assert stats.top1.item() == 0 and stats.positive.item() == pytest.approx(stats.negative.item())


def test_a_non_finite_loss_never_reaches_the_weights() -> None:
    model, optimizer, runtime = built()
    guard = FiniteGuard(optimizer, runtime.device)
    guard.watch(41, 0.5)
    before = [p.clone() for p in model.encoder_q.parameters()]
    first, second = views()
    with pytest.raises(TrainingFailed, match=r"step 41 \(lr 0.5\)"):
        train_step(Parts(model, runtime), model, optimizer, (first * float("nan"), second), None, False, guard)
    assert all(torch.equal(a, b) for a, b in zip(before, model.encoder_q.parameters()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_cuda_a_non_finite_loss_leaves_the_weights_and_is_named_later() -> None:
    model, _, _ = built()
    runtime = Runtime(RuntimeConfig("cuda", "float32"))
    model.to(runtime.device)
    optimizer = build_optimizer(model, OptimizerConfig(lr=0.5))
    guard = FiniteGuard(optimizer, runtime.device)
    before = [p.clone() for p in model.encoder_q.parameters()]
    for step, scale in enumerate((float("nan"), 1.0)):
        guard.watch(step, 0.1)
        first, second = (v.to(runtime.device) for v in views())
        train_step(Parts(model, runtime), model, optimizer, (first * scale, second), None, False, guard)
    assert all(torch.equal(a, b) for a, b in zip(before, model.encoder_q.parameters()))
    with pytest.raises(TrainingFailed, match="step 0"):
        guard.check()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_cuda_a_step_never_waits_for_the_device() -> None:
    model, _, _ = built()
    runtime = Runtime(RuntimeConfig("cuda"))
    model.to(runtime.device)
    optimizer = build_optimizer(model, OptimizerConfig(lr=0.5))
    guard = FiniteGuard(optimizer, runtime.device)
    batch = tuple(v.to(runtime.device) for v in views())
    train_step(Parts(model, runtime), model, optimizer, batch, None, True, guard)  # type: ignore[arg-type]
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_step(Parts(model, runtime), model, optimizer, batch, None, True, guard)  # type: ignore[arg-type]
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_weights_that_are_not_finite_are_not_saved() -> None:
    layer = nn.Linear(3, 2)
    guard = FiniteGuard(torch.optim.SGD(layer.parameters(), 0.1), torch.device("cpu"))
    guard.check_weights()
    for value in (float("nan"), float("inf")):
        with torch.no_grad():
            layer.weight[1, 2] = value
        with pytest.raises(TrainingFailed, match="weights are not finite"):
            guard.check_weights()
