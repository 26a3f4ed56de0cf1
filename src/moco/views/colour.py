"""Colour operations on batches with a factor per image; each equals torchvision's of the same name.

Views are float32 (N, 3, H, W) in [0, 1], factors float32 (N,); results are clamped to [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # ITU-R 601, as torchvision rounds them


def greyscale(views: Tensor) -> Tensor:
    """Luma, (N, 1, H, W)."""
    red, green, blue = GREY_WEIGHTS
    return red * views[:, :1] + green * views[:, 1:2] + blue * views[:, 2:]


def _blend(views: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    share = factor[:, None, None, None]
    return (share * views + (1 - share) * other).clamp(0, 1)


def adjust_brightness(views: Tensor, factor: Tensor) -> Tensor:
    """Blend with black."""
    return (views * factor[:, None, None, None]).clamp(0, 1)


def adjust_contrast(views: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean luma of the whole view."""
    return _blend(views, greyscale(views).mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(views: Tensor, factor: Tensor) -> Tensor:
    """Blend with the greyscale."""
    return _blend(views, greyscale(views), factor)


def solarise(views: Tensor) -> Tensor:
    """What is brighter than half, inverted (BYOL, arXiv:2006.07733, appendix B)."""
    return torch.where(views >= 0.5, 1 - views, views)


def adjust_hue(views: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue of the HSV hexcone by `turns` (-0.5 to 0.5 of a full circle)."""
    value, low = views.amax(1), views.amin(1)
    chroma = value - low
    safe = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    red, green, blue = views.unbind(1)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = sector / 6 + turns[:, None, None]  # in turns; only its fraction counts
    channels = [_hsv_channel(hue, shift, value, chroma) for shift in (5, 3, 1)]
    return torch.stack(channels, 1).clamp(0, 1)


def _hsv_channel(hue: Tensor, shift: int, value: Tensor, chroma: Tensor) -> Tensor:
    """One channel of HSV to RGB: value minus chroma times a trapezoid of the hue."""
    place = torch.remainder(shift + 6 * hue, 6)
    return value - chroma * torch.minimum(place, 4 - place).clamp(0, 1)
