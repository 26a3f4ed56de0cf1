"""Recomputed activations: the same step to the bit, with less kept for the backward pass."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moco import MoCo
from moco.config import OptimizerConfig, RuntimeConfig
from moco.data.sampler import Batch
from moco.errors import UserError
from moco.model.recompute import recompute_blocks
from moco.runs.recipe import recipe
from moco.runtime import Runtime
from moco.train.optimizer import build_optimizer
from moco.train.step import MoCoStep

SIZE = 32


def trained(recomputed: bool, backbone: str, splits: int, accumulate: int = 1) -> tuple[dict[str, Tensor], list[float]]:
    """State and losses of three steps."""
    torch.manual_seed(0)
    model = MoCo(backbone, 16, 64, mlp=True, bn_splits=splits, size=SIZE)
    if recomputed:
        assert recompute_blocks(model.encoder_q.backbone) > 1
    optimizer = build_optimizer(model, OptimizerConfig(lr=0.1))
    runtime = Runtime(RuntimeConfig("cpu", "float32", threads=2))
    step = MoCoStep(model, optimizer, runtime, lambda loss: None, 0, True, accumulate=accumulate)
    model.train()
    losses = []
    for number in range(3):
        views = torch.randn(2, 8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(number))
        losses.append(float(step((views[0], views[1]), Batch(np.arange(8), 0, number)).loss))
    return copy.deepcopy(model.state_dict()), losses


@pytest.mark.parametrize(
    ("backbone", "splits", "accumulate"),
    [("resnet18", 1, 1), ("resnet18", 4, 2), ("timm/test_vit", 1, 1), ("timm/test_efficientnet", 1, 1)],
)
def test_the_same_weights_and_statistics_to_the_bit(backbone: str, splits: int, accumulate: int) -> None:
    (plain, losses), (found, others) = (trained(on, backbone, splits, accumulate) for on in (False, True))
    assert losses == others
    assert list(plain) == list(found)
    assert [name for name, tensor in plain.items() if not torch.equal(tensor, found[name])] == []


def test_dropout_draws_the_same_twice() -> None:
    block = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5))
    made = []
    for recomputed in (False, True):
        network = nn.Sequential(nn.Sequential(_Block(copy.deepcopy(block))))
        if recomputed:
            assert recompute_blocks(network) == 1
        torch.manual_seed(1)
        network(torch.ones(4, 3, 8, 8)).square().sum().backward()
        made.append([p.grad for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*made))


class _Block(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def kept_bytes(model: MoCo) -> int:
    """What a forward pass keeps for the backward pass."""
    held: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.encoder_q(torch.randn(8, 3, 64, 64))
    return sum(held.values()) - sum(p.untyped_storage().nbytes() for p in model.encoder_q.parameters())


def test_less_is_kept() -> None:
    model = MoCo("resnet50", 16, 64, size=64).train()
    before = kept_bytes(model)
    recompute_blocks(model.encoder_q.backbone)
    assert kept_bytes(model) < before / 3


def test_a_network_without_blocks_is_said() -> None:
    with pytest.raises(UserError, match="has no sequence of blocks"):
        recompute_blocks(nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))


def test_it_does_not_go_with_compiling() -> None:
    with pytest.raises(UserError, match=r"checkpoint_activations doesn't go with runtime\.compile"):
        recipe("shapes", **{"runtime.checkpoint_activations": True, "runtime.compile": "default"})
