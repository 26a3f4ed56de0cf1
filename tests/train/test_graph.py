"""The step on a GPU, recorded as one CUDA graph: the same bits as the step launched kernel by kernel."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moco import MoCo
from moco.config import OptimizerConfig, RuntimeConfig
from moco.data.sampler import Batch
from moco.errors import TrainingFailed
from moco.model.recompute import recompute_blocks
from moco.runtime import Runtime
from moco.train.graph import WARM_STEPS, StepOnGPU
from moco.train.guard import FiniteGuard
from moco.train.muon import Muon
from moco.train.optimizer import build_optimizer, lie_alike, set_lr
from moco.train.step import MoCoStep

BATCH, SIZE = 8, 32
STEPS = WARM_STEPS + 5


class Trained:
    """A small MoCo on a GPU and its step."""

    def __init__(self, record: bool, name: str = "sgd", splits: int = 1, precision: str = "bf16", **more: Any) -> None:
        self.small = False  # the views
        torch.manual_seed(0)
        runtime = Runtime(RuntimeConfig("cuda", precision))  # type: ignore[arg-type]
        model = MoCo(more.pop("backbone", "timm/test_resnet"), 16, 64, bn_splits=splits, size=SIZE, mask_own=True)
        if more.pop("recomputed", False):
            assert recompute_blocks(model.encoder_q.backbone) > 1
        self.model = model.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = build_optimizer(model, OptimizerConfig(name, lr=0.1, momentum=0.9))  # type: ignore[arg-type]
        self.guard = FiniteGuard(self.optimizer, runtime.device)
        shown = torch.arange(20, device=runtime.device)
        self.step = MoCoStep(
            model,
            self.optimizer,
            runtime,
            self.guard,
            0,
            True,
            shown,
            accumulate=more.pop("accumulate", 1),
            record=record,
            small=more.get("small", 0),
        )
        model.train()

    def views(self, number: int) -> tuple[Tensor, ...]:
        side = SIZE // 2 if self.small else SIZE
        made = torch.randn(2, BATCH, 3, side, side, generator=torch.Generator().manual_seed(number)).cuda()
        first, second = (v.contiguous(memory_format=torch.channels_last) for v in made)
        parts = [view[..., : side // 2, : side // 2] for view in (first, second)]
        return first, second, *parts[: self.step.small]

    def go(self, first: int, last: int, spoilt: int | None = None) -> list[float]:
        """Steps from `first` up to `last`, each at its own rate; the losses."""
        losses = []
        for number in range(first, last):
            batch = Batch(np.arange(BATCH) + number, 0, number)
            set_lr(self.optimizer, 0.1 / (1 + number))
            self.guard.watch(number, 0.1 / (1 + number))
            one, *others = self.views(number)
            losses.append(self.step((one * float("nan") if number == spoilt else one, *others), batch).loss)
        return torch.stack(losses).tolist()

    def state(self) -> dict[str, Any]:
        return copy.deepcopy({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()})

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        lie_alike(self.optimizer)


def assert_same(a: Trained, b: Trained) -> None:
    theirs = b.model.state_dict()
    assert [n for n, t in a.model.state_dict().items() if not torch.equal(t, theirs[n])] == []
    states = [t.optimizer.state_dict()["state"] for t in (a, b)]
    for mine, other in zip(states[0].values(), states[1].values()):
        assert all(torch.equal(v, other[n]) for n, v in mine.items() if isinstance(v, Tensor))


@pytest.mark.parametrize(
    ("name", "splits", "accumulate"), [("sgd", 1, 1), ("sgd", 4, 2), ("adamw", 1, 1), ("muon", 2, 1)]
)
@pytest.mark.parametrize("precision", ["bf16", "float32"])
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_recorded_step_is_the_step_to_the_bit(name: str, splits: int, accumulate: int, precision: str) -> None:
    recorded, plain = (Trained(record, name, splits, precision, accumulate=accumulate) for record in (True, False))
    assert recorded.go(0, STEPS) == plain.go(0, STEPS)
    assert recorded.step._on_gpu._graph is not None and plain.step._on_gpu._graph is None
    assert_same(recorded, plain)


@pytest.mark.parametrize(("of_recorded", "of_plain"), [({"recomputed": True}, {}), ({"small": 2}, {"small": 2})])
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_recomputed_blocks_and_small_crops_in_a_recorded_step(
    of_recorded: dict[str, Any], of_plain: dict[str, Any]
) -> None:
    recorded, plain = Trained(True, **of_recorded), Trained(False, **of_plain)
    assert recorded.go(0, STEPS) == plain.go(0, STEPS)
    assert recorded.step._on_gpu._graph is not None
    assert_same(recorded, plain)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_views_of_another_size_are_recorded_anew() -> None:
    recorded, plain = Trained(True), Trained(False)
    for one in (recorded, plain):
        one.small = True
    losses = [one.go(0, STEPS) for one in (recorded, plain)]
    first = recorded.step._on_gpu._graph
    for one in (recorded, plain):
        one.small = False
    losses = [before + one.go(STEPS, 2 * STEPS) for before, one in zip(losses, (recorded, plain))]
    assert losses[0] == losses[1]
    assert first is not None and recorded.step._on_gpu._graph not in (None, first)
    assert_same(recorded, plain)


@pytest.mark.parametrize("name", ["sgd", "muon"])
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_what_was_stopped_and_resumed_is_the_same_to_the_bit(name: str) -> None:
    whole, stopped, resumed = (Trained(True, name) for _ in range(3))
    losses = whole.go(0, STEPS + 4)
    assert stopped.go(0, STEPS) == losses[:STEPS]
    resumed.load(stopped.state())
    assert resumed.go(STEPS, STEPS + 4) == losses[STEPS:]
    assert_same(whole, resumed)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_what_is_loaded_into_a_recorded_step_is_gone_on_with() -> None:
    one = Trained(True)
    one.go(0, 2)
    early = one.state()
    expected = one.go(2, STEPS)
    one.load(early)  # other memory for the momentum
    assert one.go(2, STEPS) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_bad_loss_in_a_recorded_step_leaves_the_weights_and_is_named() -> None:
    trained, sound = Trained(True), Trained(True)
    bad = STEPS - 2
    trained.go(0, STEPS, spoilt=bad)
    sound.go(0, bad)
    for mine, other in zip(trained.model.encoder_q.parameters(), sound.model.encoder_q.parameters()):
        assert torch.equal(mine, other)
    with pytest.raises(TrainingFailed, match=f"step {bad}"):
        trained.guard.check()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_network_that_draws_is_not_recorded(capfd: pytest.CaptureFixture[str]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    drawing = [Trained(record, backbone=copy.deepcopy(network)) for record in (True, False)]
    assert drawing[0].go(0, STEPS) == drawing[1].go(0, STEPS)
    assert drawing[0].step._on_gpu._graph is None
    assert "draws random numbers" in capfd.readouterr().err


def test_rates_are_on_the_device_while_it_computes_and_numbers_again_afterwards() -> None:
    network = nn.Linear(4, 4)
    optimizer = build_optimizer(network, OptimizerConfig("sgd", lr=0.5, vector_lr=0.1, momentum=0.9))
    seen: list[Any] = []

    def compute(seed: int | None, values: Tensor) -> Tensor:
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.zero_grad()
        loss = network(values).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()[None]

    step = StepOnGPU(compute, network, optimizer, record=False)
    for rate in (0.5, 0.25):
        set_lr(optimizer, rate)
        step(0, torch.ones(2, 4))
        assert [type(group["lr"]) for group in optimizer.param_groups] == [float, float]
    assert [type(lr) for lr in seen[0]] == [Tensor, Tensor]
    assert [float(lr) for lr in seen[1]] == pytest.approx([0.25, 0.025])  # the same tensors, filled anew


def test_muon_moves_matrices_the_same_way_with_its_rate_in_a_tensor() -> None:
    moved = []
    for kind in (float, torch.tensor):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
        optimizer = build_optimizer(network, OptimizerConfig("muon", lr=0.02, momentum=0.95))
        assert isinstance(optimizer, Muon)
        network(torch.randn(2, 3, 16, 16)).square().mean().backward()
        group = optimizer.param_groups[0]
        group["lr"] = kind(0.02)
        with torch.no_grad():
            optimizer._step_matrices(group)
        moved.append([p.detach() for p in network.parameters() if p.ndim > 1])
    for one, other in zip(*moved):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"momentum": lambda step: 0.9}, "momentum_end"),
        ({"optimizer": "lars"}, "lars"),
        ({"compile_mode": "reduce-overhead"}, "graphs of its own"),
    ],
)
def test_what_cannot_be_recorded_is_said(change: dict[str, Any], reason: str) -> None:
    model = MoCo("timm/test_resnet", 16, 64, size=SIZE)
    optimizer = build_optimizer(model, OptimizerConfig(change.get("optimizer", "sgd"), lr=0.1))
    runtime = Runtime(RuntimeConfig("cpu", "float32", threads=1))
    runtime.compile_mode = change.get("compile_mode", "off")
    momentum: Callable[[int], float] | None = change.get("momentum")
    step = MoCoStep(model, optimizer, runtime, lambda loss: None, 0, False, momentum=momentum)
    said = step.why_not_recorded()
    assert reason in said and bool(said) == bool(reason)
