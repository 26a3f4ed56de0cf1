"""Convolutions with small maps, whose weights' gradient is one matrix product on the CPU.

oneDNN takes the gradient of a 3x3 convolution with 512 channels and maps of 2x2 four times as slowly as it multiplies
matrices, and at 1x1 twenty times (benchmarks/README.md). Laid out as a matrix, what the kernel saw at each place is
small where the maps are small, and the product of that with the outcome's gradient is the same sum.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST = 49  # places of a map (7x7): up to there it was never slower in float32 with AVX2, in batches of 64


class _MatrixGradient(nn.Conv2d):
    """Mixed into a convolution's class: small maps of a batch in training go by `_Convolution`."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        learns = torch.is_grad_enabled() and weight.requires_grad
        if not (learns and self._in_float32(input) and self._small(input)):
            return super()._conv_forward(input, weight, bias)
        made = cast(Tensor, _Convolution.apply(input, weight, self.stride, self.padding))
        return made if bias is None else made + bias[:, None, None]

    @staticmethod
    def _in_float32(images: Tensor) -> bool:
        """On the CPU; what a processor with units for bf16 gains in that is not measured yet."""
        return images.device.type == "cpu" and images.dtype != torch.bfloat16 and not torch.is_autocast_enabled("cpu")

    def _small(self, images: Tensor) -> bool:
        assert isinstance(self.padding, tuple)
        height, width = (
            (side + 2 * padding - kernel) // stride + 1
            for side, padding, kernel, stride in zip(images.shape[2:], self.padding, self.kernel_size, self.stride)
        )
        return height * width <= LARGEST


def suit_processor(network: nn.Module, float32: bool) -> None:
    """What training on a processor needs of the convolutions of `network`, in float32 or in bf16."""
    (multiply_small_maps if float32 else spare_single_places)(network)


def multiply_small_maps(network: nn.Module) -> None:
    """Let the convolutions of `network` that can be take their weights' gradient so; the state dict stays as it is.

    Those in groups, dilated, or padded by anything but a number of zeros stay what they are.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and _plain(module):
            kind: type[nn.Conv2d] = type(module)
            module.__class__ = _mixed(_MatrixGradient, kind)  # type: ignore[arg-type]


def _plain(convolution: nn.Conv2d) -> bool:
    padded_by_zeros = convolution.padding_mode == "zeros" and isinstance(convolution.padding, tuple)
    return padded_by_zeros and convolution.groups == 1 and convolution.dilation == (1, 1)


def multiplies_small_maps(network: nn.Module) -> bool:
    """Whether any of its convolutions is one that `multiply_small_maps` has changed."""
    return any(isinstance(module, _MatrixGradient) for module in network.modules())


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


class _Convolution(torch.autograd.Function):
    """`F.conv2d` without bias, and the gradient of its weight as a product of two matrices."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(images, weight, None, stride, padding)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        images, weight = ctx.saved_tensors
        of_images = of_weight = None
        if ctx.needs_input_grad[0]:
            of_images = torch.ops.aten.convolution_backward(
                gradient, images, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1, (True, False, False)
            )[0]
        if ctx.needs_input_grad[1]:
            outputs, inputs, height, width = weight.shape
            rows = gradient.permute(0, 2, 3, 1).reshape(-1, outputs)  # (N * places, outputs)
            product = rows.T @ _seen(images, (height, width), ctx.stride, ctx.padding)
            of_weight = product.view(outputs, height, width, inputs).permute(0, 3, 1, 2)
        return of_images, of_weight, None, None


def _seen(images: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """What the kernel sees at each place of each image: (N * places, height * width * channels)."""
    (up, left), (height, width) = padding, kernel
    rows = F.pad(images.permute(0, 2, 3, 1), (0, 0, left, left, up, up))  # (N, H, W, C)
    seen = rows.unfold(1, height, stride[0]).unfold(2, width, stride[1])  # (N, h, w, C, height, width)
    return seen.permute(0, 1, 2, 4, 5, 3).reshape(-1, height * width * images.shape[1])
