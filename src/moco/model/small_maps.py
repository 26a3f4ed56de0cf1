"""Convolutions with small maps, as matrix products on the CPU.

oneDNN takes the gradient of a 3x3 convolution with 512 channels and maps of 2x2 two to four times as slowly as it
multiplies matrices, and at 1x1 twenty times (benchmarks/README.md). Two ways of laying it out instead:

- What the kernel saw at each place, as a matrix (im2col), is small where the maps are small: its product with the
  outcome's gradient is the weights' gradient.
- Where each place of the outcome sees all places of what comes in (3x3 at 2x2 and 1x1), the convolution is a linear map
  from these to those, which multiplies nothing with padding: 16 instead of 36 products at 2x2, forward and backward.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST = 49  # places of a map (7x7): up to there im2col was never slower in float32 with AVX2, in batches of 64
LARGEST_BF16 = 16  # in bf16, with AVX-512's units for it
FEWEST = 32  # images for which it pays to lay out the weight of a linear map between several places

Pair = tuple[int, int]


@dataclass(frozen=True)
class _Steps:
    """How a convolution goes over a map."""

    kernel: Pair
    stride: Pair
    padding: Pair

    def places(self, sides: Pair) -> Pair:
        """Height and width of the outcome."""
        height, width = (
            (side + 2 * padding - kernel) // stride + 1
            for side, kernel, stride, padding in zip(sides, self.kernel, self.stride, self.padding)
        )
        return height, width

    def each_sees_all(self, sides: Pair) -> bool:
        """Whether each place of the outcome sees every place of a map of `sides`."""
        return all(
            side + padding <= kernel and (places - 1) * stride <= padding
            for side, places, kernel, stride, padding in zip(
                sides, self.places(sides), self.kernel, self.stride, self.padding
            )
        )

    def seen_from(self, place: Pair, sides: Pair) -> tuple[slice, slice]:
        """The taps by which a place of the outcome sees a map of `sides`, where it sees all of it."""
        down, right = (
            slice(padding - at * stride, padding - at * stride + side)
            for at, side, stride, padding in zip(place, sides, self.stride, self.padding)
        )
        return down, right


class _ByProducts(nn.Conv2d):
    """Mixed into a convolution's class: small maps go by `_Linear` or `_WeightsGradient` in training, on the CPU."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self.training or input.device.type != "cpu":
            return super()._conv_forward(input, weight, bias)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        assert isinstance(self.padding, tuple)
        steps = _Steps(cast(Pair, self.kernel_size), cast(Pair, self.stride), cast(Pair, self.padding))
        height, width = input.shape[2:]
        places = steps.places((height, width))
        if steps.each_sees_all((height, width)) and (len(input) >= FEWEST or max(height, width, *places) == 1):
            made = _Linear.apply(input, weight, steps, dtype)
        elif self._learns_by_few(weight, places, dtype):
            made = _WeightsGradient.apply(input.to(dtype), weight.to(dtype), steps)
        else:
            return super()._conv_forward(input, weight, bias)
        made = cast(Tensor, made)
        return made if bias is None else made + bias.to(dtype)[:, None, None]

    @staticmethod
    def _learns_by_few(weight: Tensor, places: Pair, dtype: torch.dtype) -> bool:
        largest = LARGEST_BF16 if dtype == torch.bfloat16 else LARGEST
        return torch.is_grad_enabled() and weight.requires_grad and places[0] * places[1] <= largest


def suit_processor(network: nn.Module, float32: bool) -> None:
    """What training on a processor needs of the convolutions of `network`, in float32 or in bf16."""
    if not float32:
        spare_single_places(network)  # below the products: what they don't take
    multiply_small_maps(network)


def multiply_small_maps(network: nn.Module) -> None:
    """Let the convolutions of `network` that can be go by products; the state dict stays as it is.

    Those in groups, dilated, or padded by anything but a number of zeros stay what they are.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and _plain(module):
            kind: type[nn.Conv2d] = type(module)
            module.__class__ = _mixed(_ByProducts, kind)  # type: ignore[arg-type]


def _plain(convolution: nn.Conv2d) -> bool:
    padded_by_zeros = convolution.padding_mode == "zeros" and isinstance(convolution.padding, tuple)
    return padded_by_zeros and convolution.groups == 1 and convolution.dilation == (1, 1)


def multiplies_small_maps(network: nn.Module) -> bool:
    """Whether any of its convolutions is one that `multiply_small_maps` has changed."""
    return any(isinstance(module, _ByProducts) for module in network.modules())


class _Float32AtOnePlace(nn.Conv2d):
    """Mixed into a convolution's class: a map of one place goes in float32, also where the rest is bf16.

    oneDNN's bf16 gradient of the weight leaves what it never computes uninitialised there: taps that only see padding.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if min(input.shape[2:]) > 1 or input.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super()._conv_forward(input, weight, bias)
        with torch.autocast("cpu", enabled=False):
            made = super()._conv_forward(input.float(), weight, bias)
        return made.to(torch.get_autocast_dtype("cpu"))


def spare_single_places(network: nn.Module) -> None:
    """Let convolutions of `network` whose kernel is larger than 1x1 take maps of one place in float32."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
            kind: type[nn.Conv2d] = type(module)
            module.__class__ = _mixed(_Float32AtOnePlace, kind)  # type: ignore[arg-type]


@cache
def _mixed(mixin: type[nn.Conv2d], kind: type[nn.Conv2d]) -> type[nn.Conv2d]:
    return kind if issubclass(kind, mixin) else type(kind.__name__, (mixin, kind), {})


class _Linear(torch.autograd.Function):
    """A convolution without bias, whose every place sees all of what comes in, as one linear map, in `dtype`."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, steps: _Steps, dtype: torch.dtype) -> Tensor:
        number, channels, *sides = images.shape
        shape = (*steps.places((sides[0], sides[1])), len(weight), *sides, channels)
        laid = torch.empty(shape, dtype=dtype)
        for place, seen in _places(steps, shape):
            laid[place].copy_(weight.permute(0, 2, 3, 1)[:, *seen])
        matrix = laid.view(shape[0] * shape[1] * len(weight), -1)
        rows = _rows(images, dtype)
        ctx.save_for_backward(rows, matrix)
        ctx.steps, ctx.shape = steps, shape
        ctx.dtypes = images.dtype, weight.dtype
        return (rows @ matrix.T).view(number, *shape[:3]).permute(0, 3, 1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        rows, matrix = ctx.saved_tensors
        of_image, of_tap = ctx.dtypes
        given = _rows(gradient, rows.dtype)
        of_images = of_weight = None
        if ctx.needs_input_grad[0]:
            of_images = (given @ matrix).view(len(rows), *ctx.shape[3:]).permute(0, 3, 1, 2).to(of_image)
        if ctx.needs_input_grad[1]:
            laid = (given.T @ rows).view(ctx.shape)
            outputs, channels = ctx.shape[2], ctx.shape[5]
            taps = torch.zeros(outputs, *ctx.steps.kernel, channels, dtype=of_tap)
            for place, seen in _places(ctx.steps, ctx.shape):
                taps[:, *seen] += laid[place]
            of_weight = taps.permute(0, 3, 1, 2)
        return of_images, of_weight, None, None


def _places(steps: _Steps, shape: tuple[int, ...]) -> list[tuple[Pair, tuple[slice, slice]]]:
    """Each place of the outcome, and the taps by which it sees: of (h, w, outputs, height, width, channels)."""
    sides = (shape[3], shape[4])
    return [(place, steps.seen_from(place, sides)) for place in product(range(shape[0]), range(shape[1]))]


def _rows(maps: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, C, height, width) as (N, height * width * C)."""
    return maps.permute(0, 2, 3, 1).reshape(len(maps), -1).to(dtype)


class _WeightsGradient(torch.autograd.Function):
    """`F.conv2d` without bias, and the gradient of its weight as a product of two matrices."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, steps: _Steps) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.steps = steps
        return F.conv2d(images, weight, None, steps.stride, steps.padding)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        images, weight = ctx.saved_tensors
        stride, padding = ctx.steps.stride, ctx.steps.padding
        of_images = of_weight = None
        if ctx.needs_input_grad[0]:
            of_images = torch.ops.aten.convolution_backward(
                gradient, images, weight, None, stride, padding, (1, 1), False, (0, 0), 1, (True, False, False)
            )[0]
        if ctx.needs_input_grad[1]:
            outputs, inputs, height, width = weight.shape
            rows = gradient.permute(0, 2, 3, 1).reshape(-1, outputs)  # (N * places, outputs)
            found = rows.T @ _seen(images, ctx.steps)
            of_weight = found.view(outputs, height, width, inputs).permute(0, 3, 1, 2)
        return of_images, of_weight, None


def _seen(images: Tensor, steps: _Steps) -> Tensor:
    """What the kernel sees at each place of each image: (N * places, height * width * channels)."""
    (up, left), (height, width) = steps.padding, steps.kernel
    rows = F.pad(images.permute(0, 2, 3, 1), (0, 0, left, left, up, up))  # (N, H, W, C)
    seen = rows.unfold(1, height, steps.stride[0]).unfold(2, width, steps.stride[1])  # (N, h, w, C, height, width)
    return seen.permute(0, 1, 2, 4, 5, 3).reshape(-1, height * width * images.shape[1])
