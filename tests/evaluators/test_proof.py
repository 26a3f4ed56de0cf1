"""The proof must fail for every way in which a backbone can move, and hold where it doesn't."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from moco.evaluators.proof import ProtocolBroken, fingerprint, proven

TWO = {"weight": torch.zeros(3, 8), "bias": torch.zeros(3)}


def test_it_names_what_trained_and_that_the_backbone_is_the_same(backbone: nn.Module) -> None:
    with proven(backbone) as proof:
        proof.trains(TWO)
        backbone(torch.randn(4, 3, 12, 12))
    said = proof.as_dict()
    assert said["trained_tensors"] == {"weight": [3, 8], "bias": [3]}
    assert said["backbone_unchanged"] is True and said["frozen_tensors"] == 7
    assert said["backbone_sha256"] == fingerprint(backbone)


def test_batch_norm_in_training_mode_is_found(backbone: nn.Module) -> None:
    with pytest.raises(ProtocolBroken, match="the backbone changed"), proven(backbone) as proof:
        proof.trains(TWO)
        backbone.train()(torch.randn(4, 3, 12, 12))


def test_one_bit_is_found(backbone: nn.Module) -> None:
    with pytest.raises(ProtocolBroken, match="the backbone changed"), proven(backbone) as proof:
        proof.trains(TWO)
        backbone.conv.weight.view(torch.int32)[0, 0, 0, 0] ^= 1  # type: ignore[index, operator, union-attr]


@pytest.mark.parametrize("names", [("weight",), ("weight", "bias", "scale"), ("weight", "queue")])
def test_any_other_tensors_are_refused(backbone: nn.Module, names: tuple[str, ...]) -> None:
    with pytest.raises(ProtocolBroken, match="not weight and bias alone"), proven(backbone) as proof:
        proof.trains({name: torch.zeros(3) for name in names})


def test_a_backbone_that_takes_gradients_is_refused(backbone: nn.Module) -> None:
    with pytest.raises(ProtocolBroken, match="take gradients"), proven(backbone) as proof:
        backbone.norm.requires_grad_(True)
        proof.trains(TWO)


def test_gradients_on_the_backbone_are_found(backbone: nn.Module) -> None:
    with pytest.raises(ProtocolBroken, match="have gradients"), proven(backbone) as proof:
        proof.trains(TWO)
        backbone.conv.bias.grad = torch.zeros(8)  # type: ignore[union-attr]


def test_a_tensor_of_the_backbone_is_refused(backbone: nn.Module) -> None:
    with pytest.raises(ProtocolBroken, match="is a tensor of the backbone"), proven(backbone) as proof:
        proof.trains({"weight": TWO["weight"], "bias": backbone.norm.bias[:3]})  # type: ignore[index]


def test_training_nothing_is_found(backbone: nn.Module) -> None:
    with pytest.raises(ProtocolBroken, match="no classifier"), proven(backbone):
        pass


def test_the_fingerprint_is_of_the_values_not_of_the_memory(backbone: nn.Module) -> None:
    before = fingerprint(backbone)
    assert fingerprint(backbone.to(memory_format=torch.channels_last)) == before  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b.norm.running_mean.add_(1e-6),
        lambda b: b.norm.num_batches_tracked.add_(1),
        lambda b: b.conv.bias.data.add_(1),
        lambda b: b.register_buffer("extra", torch.zeros(0)),
        lambda b: b.half(),
    ],
)
def test_every_change_changes_the_fingerprint(backbone: nn.Module, change: Callable[[nn.Module], object]) -> None:
    before = fingerprint(backbone)
    change(backbone)
    assert fingerprint(backbone) != before
