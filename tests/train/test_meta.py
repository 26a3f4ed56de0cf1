"""The step as a GPU runs it, on the `meta` device: reading a value there raises, and so does a tensor left on the host.

So no host sync and no stray device can hide in it, without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from moco import MoCo
from moco.config import OptimizerConfig, RuntimeConfig, ViewsConfig
from moco.data.sampler import Batch
from moco.runtime import Runtime
from moco.train.guard import FiniteGuard
from moco.train.optimizer import build_optimizer
from moco.train.state import Totals
from moco.train.step import MoCoStep
from moco.views import cuda
from moco.views.parameters import draw
from moco.views.pipelines import pipeline
from moco.views.ragged import Ragged

META = torch.device("meta")
BATCH, SIZE = 8, 32


def on_meta() -> Runtime:
    runtime = Runtime(RuntimeConfig("cpu", "float32", threads=1))
    runtime.device = META
    return runtime


def source() -> Ragged:
    size = np.full(20, 40, np.int32)
    return Ragged(torch.empty(20 * 40 * 40 * 3, dtype=torch.uint8, device=META), np.arange(20) * 4800, size, size)


def views(batch: Batch) -> tuple[Tensor, Tensor]:
    made = []
    of = source()
    for number in (0, 1):
        p = pipeline(ViewsConfig(size=SIZE))
        drawn = draw(p, of.heights[batch.images], of.widths[batch.images], batch.images, 0, batch.epoch, number)
        made.append(cuda.apply(of.take(batch.images), np.arange(BATCH), drawn, p))
    return made[0], made[1]


def unfused(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """There is no fused step for `meta`; what the guard gave it for that is on the device."""
    found = optimizer.found_inf  # type: ignore[attr-defined]
    assert found.device == META
    optimizer.found_inf = optimizer.grad_scale = None  # type: ignore[attr-defined]
    for group in optimizer.param_groups:
        group["fused"] = False


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon", "lars"])
@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_no_value_is_read_and_nothing_stays_on_the_host(
    name: str, splits: int, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())  # there is none for `meta`
    if accumulate > splits:
        pytest.skip("a piece has a whole part")
    runtime = on_meta()
    model = MoCo("timm/test_resnet", 16, 64, mlp=True, bn_splits=splits, size=SIZE, mask_own=True)
    model.to(META, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(model, OptimizerConfig(name, lr=0.1))  # type: ignore[arg-type]
    optimizer.register_step_pre_hook(unfused)
    guard = FiniteGuard(optimizer, META)
    shown = torch.arange(20, device=META)
    step = MoCoStep(model, optimizer, runtime, guard, 0, True, shown, None, True, accumulate)
    totals = Totals(META)
    model.train()
    for number in range(2):
        batch = Batch(np.arange(BATCH) + number, 0, number)
        guard.watch(number, 0.1)
        stats = step(views(batch), batch)
        totals.add(stats)
    assert stats.loss.device == META and stats.loss.shape == ()
    assert all(p.grad is not None and p.grad.device == META for p in model.encoder_q.parameters())


@pytest.mark.parametrize("read", [lambda t: t.item(), lambda t: t.cpu() + torch.zeros(3), lambda t: t + torch.ones(3)])
def test_the_device_notices(read: Callable[[Tensor], object]) -> None:
    """What the test above rests on."""
    with pytest.raises((RuntimeError, NotImplementedError)):
        read(torch.zeros(3, device=META).sum() if "item" in str(read) else torch.zeros(3, device=META))


def faked(model: MoCo) -> MoCo:
    """Parameters and buffers as fake `cuda` tensors of the mode that is on."""
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in list(held.items()):
                if tensor is None:
                    continue
                there = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                isnt = not isinstance(tensor, nn.Parameter)
                held[name] = there if isnt else nn.Parameter(there, tensor.requires_grad)
    return model


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_the_forward_half_on_fake_cuda_tensors_stays_on_its_device() -> None:
    """torch's own kernels for `cuda` decide what may meet what there; its backward pass doesn't run without a GPU."""
    model = MoCo("timm/test_resnet", 16, 64, mlp=True, bn_splits=4, size=SIZE)
    with FakeTensorMode():
        faked(model).train()
        images = torch.empty(BATCH, 3, SIZE, SIZE, device="cuda").to(memory_format=torch.channels_last)
        order = torch.empty(BATCH, dtype=torch.long, device="cuda")
        keys = model.keys(images, order)
        with torch.no_grad():
            logits = model.logits(images, keys)
        model.update_key_encoder()
        model.enqueue(keys)
        assert keys.device.type == logits.device.type == "cuda" and logits.shape == (BATCH, 65)
        with pytest.raises(RuntimeError, match="same device"):
            model.enqueue(torch.empty(BATCH, 16))
