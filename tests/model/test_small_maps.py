"""Small maps by products: the same gradients as oneDNN's, for every kind of convolution that is taken."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from moco.model.small_maps import LARGEST, multiplies_small_maps, multiply_small_maps, spare_single_places

Gradients = list[Tensor]


def gradients(convolution: nn.Module, images: Tensor) -> Gradients:
    """Of the images and of every parameter."""
    leaf = images.clone().requires_grad_()
    made = convolution(leaf)
    weights = torch.randn(made.shape, generator=torch.Generator().manual_seed(1), dtype=made.dtype)
    (made * weights).sum().backward()
    assert leaf.grad is not None
    return [leaf.grad, *(p.grad for p in convolution.parameters() if p.grad is not None)]


def multiplied(network: nn.Module) -> nn.Module:
    made = copy.deepcopy(network)
    multiply_small_maps(made)
    return made


def _calls(network: nn.Module, images: Tensor) -> int:
    """How many convolutions went by products."""
    seen, waiting = set(), [network(images).grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return sum("_ConvolutionBackward" in type(node).__name__ and "Cpp" not in type(node).__name__ for node in seen)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"kernel_size": 3, "padding": 1}, (1, 1)),
        ({"kernel_size": 3, "padding": 1}, (4, 7)),
        ({"kernel_size": 3, "padding": 1, "stride": 2}, (5, 4)),
        ({"kernel_size": (3, 1), "padding": (2, 0), "stride": (1, 2)}, (3, 6)),
        ({"kernel_size": 1, "stride": 2}, (4, 4)),
        ({"kernel_size": 1, "bias": False}, (2, 2)),
        ({"kernel_size": 4, "stride": 4, "bias": False}, (16, 12)),
    ],
)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_the_same_outcome_and_gradients(options: dict[str, Any], size: tuple[int, int], memory: Any) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 10, **options).double().to(memory_format=memory)
    images = torch.randn(4, 6, *size, dtype=torch.float64).contiguous(memory_format=memory)
    ours = multiplied(plain)
    assert _calls(ours, images) == 1
    torch.testing.assert_close(ours(images), plain(images), rtol=1e-12, atol=1e-12)
    for found, expected in zip(gradients(ours, images), gradients(plain, images), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_gradient_lies_as_its_weight_does() -> None:
    ours = multiplied(nn.Conv2d(8, 8, 3, padding=1).to(memory_format=torch.channels_last))
    gradients(ours, torch.randn(2, 8, 2, 2))
    weight = ours.weight
    assert isinstance(weight, Tensor) and weight.grad is not None
    assert weight.grad.stride() == weight.stride()


def test_only_small_maps_and_plain_convolutions_are_taken() -> None:
    side = int(LARGEST**0.5)
    convolution = multiplied(nn.Conv2d(3, 4, 3, padding=1))
    assert _calls(convolution, torch.randn(2, 3, side, side)) == 1
    assert _calls(convolution, torch.randn(2, 3, side, side + 1)) == 0
    for options in ({"groups": 3}, {"dilation": 2, "padding": 2}, {"padding_mode": "reflect"}, {"padding": "same"}):
        other = multiplied(nn.Conv2d(3, 6, 3, **{"padding": 1, **options}))  # type: ignore[arg-type]
        assert _calls(other, torch.randn(2, 3, 4, 4)) == 0, options
    with torch.no_grad():
        assert convolution(torch.randn(2, 3, 4, 4)).grad_fn is None
    convolution.requires_grad_(False)
    assert _calls(convolution, torch.randn(2, 3, 4, 4).requires_grad_()) == 0


def test_in_bf16_all_stays_as_it_is() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 16, 3, padding=1)
    images = torch.randn(8, 16, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert _calls(multiplied(plain), images) == 0
        for ours, theirs in zip(gradients(multiplied(plain), images), gradients(plain, images), strict=True):
            assert torch.equal(ours, theirs)


def test_a_network_keeps_its_names_and_copies() -> None:
    network = models.resnet18()
    ours = copy.deepcopy(multiplied(network))
    assert list(ours.state_dict()) == list(network.state_dict())
    assert repr(ours) == repr(network)
    assert multiplies_small_maps(ours) and not multiplies_small_maps(network)
    images = torch.randn(2, 3, 64, 64)
    assert _calls(ours.train(), images) == 10  # five each of the stages whose maps are 4x4 and 2x2


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
