"""Small maps by products: what oneDNN computes, for every kind of convolution that is taken."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from moco.model.small_maps import (
    FEWEST,
    LARGEST,
    LARGEST_BF16,
    multiplies_small_maps,
    multiply_small_maps,
    spare_single_places,
    suit_processor,
)

Gradients = list[Tensor]


def gradients(convolution: nn.Module, images: Tensor) -> Gradients:
    """Of the images and of every parameter."""
    leaf = images.clone().requires_grad_()
    made = convolution(leaf)
    weights = torch.randn(made.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (made * weights.to(made.dtype)).sum().backward()
    assert leaf.grad is not None
    return [leaf.grad, *(p.grad for p in convolution.parameters() if p.grad is not None)]


def multiplied(network: nn.Module) -> nn.Module:
    made = copy.deepcopy(network)
    multiply_small_maps(made)
    return made


def _calls(network: nn.Module, images: Tensor) -> tuple[int, int]:
    """How many convolutions went as linear maps, and of how many others the weights' gradient is a product."""
    seen, waiting = set(), [network(images).grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    names = [type(node).__name__ for node in seen]
    return names.count("_LinearBackward"), names.count("_WeightsGradientBackward")


@pytest.mark.parametrize(
    ("options", "size", "linear"),
    [
        ({"kernel_size": 3, "padding": 1}, (1, 1), True),
        ({"kernel_size": 3, "padding": 1}, (2, 2), True),
        ({"kernel_size": 3, "padding": 1, "bias": False}, (1, 2), True),
        ({"kernel_size": 3, "padding": 1, "stride": 2}, (2, 1), True),
        ({"kernel_size": 5, "padding": 2}, (3, 2), True),
        ({"kernel_size": (3, 1), "padding": (1, 0)}, (2, 1), True),
        ({"kernel_size": 4, "bias": False}, (4, 4), True),
        ({"kernel_size": 3, "padding": 1}, (3, 2), False),
        ({"kernel_size": 3, "padding": 1, "stride": 2}, (4, 4), False),
        ({"kernel_size": 3, "padding": 1}, (4, 7), False),
        ({"kernel_size": 3, "padding": 1, "stride": 2}, (5, 4), False),
        ({"kernel_size": (3, 1), "padding": (2, 0), "stride": (1, 2)}, (3, 6), False),
        ({"kernel_size": 1, "stride": 2}, (4, 4), False),
        ({"kernel_size": 1, "bias": False}, (2, 2), False),
        ({"kernel_size": 4, "stride": 4, "bias": False}, (16, 12), False),
    ],
)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_the_same_outcome_and_gradients(
    options: dict[str, Any], size: tuple[int, int], linear: bool, memory: Any
) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 10, **options).double().to(memory_format=memory)
    images = torch.randn(FEWEST, 6, *size, dtype=torch.float64).contiguous(memory_format=memory)
    ours = multiplied(plain)
    assert _calls(ours, images) == ((1, 0) if linear else (0, 1))
    torch.testing.assert_close(ours(images), plain(images), rtol=1e-12, atol=1e-12)
    for found, expected in zip(gradients(ours, images), gradients(plain, images), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("side", [2, 4])
def test_all_lies_as_the_weight_does(side: int) -> None:
    ours = multiplied(nn.Conv2d(8, 8, 3, padding=1).to(memory_format=torch.channels_last))
    images = torch.randn(FEWEST, 8, side, side).contiguous(memory_format=torch.channels_last)
    assert ours(images).is_contiguous(memory_format=torch.channels_last)
    assert gradients(ours, images)[0].is_contiguous(memory_format=torch.channels_last)
    weight = ours.weight
    assert isinstance(weight, Tensor) and weight.grad is not None
    assert weight.grad.stride() == weight.stride()


def test_keys_take_the_same_way_and_evaluation_none() -> None:
    """A key is what a query with the same weights would be; features are what anybody's network would give."""
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 16, 3, padding=1)
    ours, images = multiplied(plain), torch.randn(FEWEST, 16, 2, 2)
    query = ours(images)
    with torch.no_grad():
        assert torch.equal(ours(images), query)
        assert torch.equal(ours.eval()(images), plain(images))
    assert _calls(ours, images) == (0, 0)


def test_only_small_maps_and_plain_convolutions_are_taken() -> None:
    side = int(LARGEST**0.5)
    convolution = multiplied(nn.Conv2d(3, 4, 3, padding=1))
    assert _calls(convolution, torch.randn(2, 3, side, side)) == (0, 1)
    assert _calls(convolution, torch.randn(2, 3, side, side + 1)) == (0, 0)
    assert _calls(convolution, torch.randn(FEWEST - 1, 3, 2, 2)) == (0, 1)
    assert _calls(convolution, torch.randn(1, 3, 1, 1)) == (1, 0)
    for options in ({"groups": 3}, {"dilation": 2, "padding": 2}, {"padding_mode": "reflect"}, {"padding": "same"}):
        other = multiplied(nn.Conv2d(3, 6, 3, **{"padding": 1, **options}))  # type: ignore[arg-type]
        assert _calls(other, torch.randn(FEWEST, 3, 2, 2)) == (0, 0), options
    with torch.no_grad():
        assert convolution(torch.randn(2, 3, 4, 4)).grad_fn is None
    convolution.requires_grad_(False)
    assert _calls(convolution, torch.randn(2, 3, 4, 4).requires_grad_()) == (0, 0)


@pytest.mark.parametrize(("side", "calls"), [(1, (1, 0)), (2, (1, 0)), (4, (0, 1)), (5, (0, 0))])
def test_in_bf16_it_rounds_as_autocast_does(side: int, calls: tuple[int, int]) -> None:
    """Outcomes in bf16, gradients of float32 weights in float32; as near to float64's as oneDNN's are."""
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 32, 3, padding=1)
    ours, images = multiplied(plain), torch.randn(FEWEST, 16, side, side)
    exact = gradients(copy.deepcopy(plain).double(), images.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert _calls(ours, images) == calls
        assert ours(images).dtype == torch.bfloat16
        found, theirs = gradients(ours, images), gradients(plain, images)
    for mine, other, right in zip(found, theirs, exact, strict=True):
        assert mine.dtype == other.dtype == torch.float32
        assert (mine - right).norm() < 0.01 * right.norm()
    assert side * side <= LARGEST_BF16 or calls == (0, 0)


@pytest.mark.parametrize("float32", [True, False])
def test_a_single_place_has_finite_gradients_in_either_precision(float32: bool) -> None:
    network = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=2))
    suit_processor(network, float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=not float32):
        made = network(torch.randn(8, 16, 1, 1))
    made.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_a_network_keeps_its_names_and_copies() -> None:
    network = models.resnet18()
    ours = copy.deepcopy(multiplied(network))
    assert list(ours.state_dict()) == list(network.state_dict())
    assert repr(ours) == repr(network)
    assert multiplies_small_maps(ours) and not multiplies_small_maps(network)
    images = torch.randn(FEWEST, 3, 64, 64)
    assert _calls(ours.train(), images) == (3, 7)  # those from 2x2 to 2x2; the others of the stages of 4x4 and 2x2


@pytest.mark.parametrize("groups", [1, 16])
@pytest.mark.parametrize("kernel", [3, 5])
def test_bf16_gradients_of_a_map_of_one_place_are_finite_and_right(kernel: int, groups: int) -> None:
    """What only ever sees padding has no gradient; oneDNN leaves whatever lay in the memory there."""
    plain = nn.Conv2d(16, 16, kernel, 2, kernel // 2, groups=groups, bias=False)
    network = nn.Sequential(copy.deepcopy(plain))
    spare_single_places(network)
    images = torch.randn(8, 16, 1, 1).bfloat16().float()
    with torch.autocast("cpu", torch.bfloat16):
        made = network(images)
        assert made.dtype == torch.bfloat16
        made.float().sum().backward()
    plain(images).sum().backward()
    found, expected = network[0].weight.grad, plain.weight.grad
    assert found is not None and expected is not None
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
    larger = torch.randn(2, 16, 4, 4)
    assert torch.equal(network(larger), plain(larger))
    assert network.state_dict().keys() == {"0.weight"}
