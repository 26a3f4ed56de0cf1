"""The second half of a view: pixels from parameters, no randomness. The readable version, on any device.

A separable filter is two matrix products, so cropping with antialiased resampling is W_y @ image @ W_x^T and
blurring is B @ image @ B^T, batched. Each operation equals torchvision's on float tensors (the tests say how
closely); colours are clamped to [0, 1] after each step of the jitter, as there.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco.views.colour import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation, greyscale, solarise
from moco.views.parameters import Parameters
from moco.views.pipelines import Pipeline
from moco.views.ragged import Ragged

MOST_PADDING = 3  # times the windows' own cost; random crops of like photographs stay below it, in one group
_ADJUST = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


def apply(source: Ragged, images: NDArray[np.int64], parameters: Parameters, pipeline: Pipeline) -> Tensor:
    """The views that `parameters` (N rows) describe of `images` (N numbers): float32 (N, 3, size, size)."""
    views = crop_resize(source, images, parameters, pipeline.size)
    if pipeline.grey_first:
        views = _grey(views, parameters)
    views = _jitter(views, parameters)
    if not pipeline.grey_first:
        views = _grey(views, parameters)
    views = _blur(views, parameters)
    solarised = _on(np.flatnonzero(parameters.solarise), views)
    views[solarised] = solarise(views[solarised])
    flipped = _on(np.flatnonzero(parameters.flip), views)
    views[flipped] = views[flipped].flip(-1)
    return normalise(views, pipeline)


def normalise(views: Tensor, pipeline: Pipeline) -> Tensor:
    """(x - mean) / std per channel; float32 (N, 3, H, W) in [0, 1] before."""
    mean, std = (_per_channel(values, views.device) for values in (pipeline.mean, pipeline.std))
    return (views - mean) / std


@cache
def _per_channel(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """(3, 1, 1) on `device`, uploaded once."""
    return torch.tensor(values, device=device)[:, None, None]


def crop_resize(source: Ragged, images: NDArray[np.int64], parameters: Parameters, size: int) -> Tensor:
    """The crops, resampled bilinearly with antialiasing: float32 (N, 3, size, size) in [0, 1].

    Windows of like sizes are resampled together, so that one panorama doesn't widen the whole batch.
    """
    window = parameters.window
    groups = like_sizes(window[:, 2] - window[:, 0], window[:, 3] - window[:, 1], size)
    views = [_resample(source, images[rows], parameters.box[rows], window[rows], size) for rows in groups]
    if len(groups) == 1:
        return views[0]
    return torch.cat(views)[source.upload(np.argsort(np.concatenate(groups)))]


def like_sizes(heights: NDArray[np.int32], widths: NDArray[np.int32], size: int) -> list[NDArray[np.int64]]:
    """The windows (N,) in groups, as row numbers, such that padding each group costs a bounded factor of memory.

    A group is cut in two, by height or by width and where that saves most, while padded to its tallest and widest
    it costs more than `MOST_PADDING` times what its windows cost each by itself.
    """
    groups, waiting = [], [np.arange(len(heights))]
    while waiting:
        rows = waiting.pop()
        h, w = heights[rows].astype(np.int64), widths[rows].astype(np.int64)
        if len(rows) == 1 or len(rows) * _cost(h.max(), w.max(), size) <= MOST_PADDING * _cost(h, w, size).sum():
            groups.append(np.sort(rows))
        else:
            waiting += _cut(rows, h, w, size)
    return sorted(groups, key=lambda rows: int(rows[0]))


def _cost(height: NDArray[np.int64], width: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """What a window's pixels and its two filters take, in units of some 24 bytes."""
    return height * width + size * (height + width)


def _cut(
    rows: NDArray[np.int64], heights: NDArray[np.int64], widths: NDArray[np.int64], size: int
) -> list[NDArray[np.int64]]:
    """`rows` (N,) in the two parts that cost least, each padded to its own largest."""
    best: tuple[int, list[NDArray[np.int64]]] | None = None
    count = np.arange(1, len(rows))
    for side in (heights, widths):
        order = np.argsort(side, kind="stable")
        h, w = heights[order], widths[order]
        below = count * _cost(np.maximum.accumulate(h)[:-1], np.maximum.accumulate(w)[:-1], size)
        h_above, w_above = (np.maximum.accumulate(x[::-1])[::-1][1:] for x in (h, w))
        total = below + (len(rows) - count) * _cost(h_above, w_above, size)
        at = int(total.argmin())
        if best is None or total[at] < best[0]:
            best = int(total[at]), [rows[order[: at + 1]], rows[order[at + 1 :]]]
    assert best is not None
    return best[1]


def _resample(
    source: Ragged, images: NDArray[np.int64], box: NDArray[np.float64], window: NDArray[np.int32], size: int
) -> Tensor:
    """`crop_resize` of images whose windows are alike."""
    pixels = gather(source, images, window)  # (N, H, W, 3)
    n, height, width, _ = pixels.shape
    place, limits = source.upload(box), source.upload(window)
    rows = resampling(place[:, 0] - limits[:, 0], place[:, 2], limits[:, 2] - limits[:, 0], height, size)
    columns = resampling(place[:, 1] - limits[:, 1], place[:, 3], limits[:, 3] - limits[:, 1], width, size)
    tall = torch.bmm(rows, pixels.reshape(n, height, width * 3)).reshape(n, size, width, 3)  # rows resampled
    views = torch.einsum("nsw,nhwc->nchs", columns, tall)  # (N, 3, size, size)
    return views / 255.0


def gather(source: Ragged, images: NDArray[np.int64], window: NDArray[np.int32]) -> Tensor:
    """The windows' pixels, padded to the largest: float32 (N, H, W, 3) in 0..255."""
    heights, widths = window[:, 2] - window[:, 0], window[:, 3] - window[:, 1]
    y = np.minimum(np.arange(heights.max())[None], heights[:, None] - 1) + window[:, :1]  # (N, H)
    x = np.minimum(np.arange(widths.max())[None], widths[:, None] - 1) + window[:, 1:2]  # (N, W)
    row_start = source.offsets[images, None] // 3 + y.astype(np.int64) * source.widths[images, None]
    return source.rgb[source.upload(row_start)[:, :, None] + source.upload(x)[:, None]].float()


def resampling(start: Tensor, length: Tensor, available: Tensor, pixels: int, size: int) -> Tensor:
    """Rows of triangle weights, float32 (N, size, pixels): output pixel i reads around its own centre.

    `start` and `length` (N,) are the box along one axis in input pixels, `available` (N,) how many input pixels
    exist. Where it shrinks, the triangle widens with the scale (antialiasing), as in Pillow and torchvision.
    """
    scale = length / size  # (N,)
    support = scale.clamp(min=1.0)[:, None, None]
    steps = torch.arange(size, device=start.device, dtype=torch.float64) + 0.5
    centres = start[:, None] + steps * scale[:, None]  # (N, size)
    positions = torch.arange(pixels, device=start.device, dtype=torch.float64) + 0.5
    weights = (1 - (positions - centres[:, :, None]).abs() / support).clamp(min=0)  # (N, size, pixels)
    weights = weights * (positions < available[:, None])[:, None]
    return (weights / weights.sum(-1, keepdim=True)).float()


def blur_kernels(sigma: NDArray[np.float32], size: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Gaussian kernels, float32 (N, 2 R + 1), and each one's radius, int64 (N,); sigma (N,) in pixels, above 0.

    Three sigmas to each side hold 99.7 % of the weight; beyond its own radius a kernel is 0.
    """
    radius = np.clip(np.floor(3 * sigma.astype(np.float64) + 0.5).astype(np.int64), 1, None)
    radius = np.minimum(radius, size - 1)  # a reflection reaches no further
    largest = radius.max(initial=0)
    taps = np.arange(-largest, largest + 1)
    kernels = np.exp(-0.5 * (taps / sigma[:, None].astype(np.float64)) ** 2) * (np.abs(taps) <= radius[:, None])
    return (kernels / kernels.sum(1, keepdims=True)).astype(np.float32), radius


def blur_matrix(kernels: Tensor, size: int) -> Tensor:
    """The blur along one axis as matrices, float32 (N, size, size), edges reflected; kernels (N, 2 R + 1)."""
    n, width = kernels.shape
    taps = torch.arange(width, device=kernels.device) - width // 2
    positions = (torch.arange(size, device=kernels.device)[:, None] + taps).abs()  # (size, 2 R + 1)
    positions = torch.where(positions >= size, 2 * (size - 1) - positions, positions)
    matrix = kernels.new_zeros(n, size, size)
    index = positions.expand(n, size, -1)
    return matrix.scatter_add_(2, index, kernels[:, None].expand(-1, size, -1))


def _on(rows: NDArray[np.int64], like: Tensor) -> Tensor:
    return torch.from_numpy(rows).to(like.device)


def _grey(views: Tensor, parameters: Parameters) -> Tensor:
    rows = _on(np.flatnonzero(parameters.grey), views)
    views[rows] = greyscale(views[rows]).expand(-1, 3, -1, -1)
    return views


def _jitter(views: Tensor, parameters: Parameters) -> Tensor:
    factors = torch.from_numpy(parameters.factors).to(views.device)
    for place in range(4):
        for operation, adjust in enumerate(_ADJUST):
            rows = np.flatnonzero(parameters.jitter & (parameters.order[:, place] == operation))
            if len(rows):
                chosen = _on(rows, views)
                views[chosen] = adjust(views[chosen], factors[chosen, operation])
    return views


def _blur(views: Tensor, parameters: Parameters) -> Tensor:
    rows = np.flatnonzero(parameters.sigma > 0)
    if not len(rows):
        return views
    chosen = _on(rows, views)
    size = views.shape[-1]
    kernels, _ = blur_kernels(parameters.sigma[rows], size)
    matrix = blur_matrix(torch.from_numpy(kernels).to(views.device), size)[:, None]
    views[chosen] = matrix @ views[chosen] @ matrix.transpose(-1, -2)
    return views
