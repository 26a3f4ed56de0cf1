"""The compiled view: one pass over each image while it sits in the cache (numba). `cpu.py` calls it.

All compiled functions stand in this one file: numba's cache notices changes of the file that the outermost one is
in, and no others. A view is computed by one thread from its own row of the parameters, so the bits don't
depend on the number of threads or on the rest of the batch. `fastmath` lets LLVM use fused multiply-adds and
vector sums; which ones is settled when it compiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, prange

from moco.console import say
from moco.views.colour import GREY_WEIGHTS
from moco.views.parameters import BRIGHTNESS, CONTRAST, SATURATION

BLOCK = 1024  # pixels that the colour operations take at a time: 12 KiB, so that they stay in the first cache
RED, GREEN, BLUE = (np.float32(weight) for weight in GREY_WEIGHTS)
ZERO, ONE, TWO, SIX, SIXTH = (np.float32(number) for number in (0, 1, 2, 6, 1 / 6))


def _cached(function: Callable[..., None]) -> Any:
    """Compile for all threads and keep the machine code on disk, where there is a folder that can be written."""
    try:
        return njit(parallel=True, fastmath=True, cache=True)(function)
    except RuntimeError:  # numba's word for "no such folder"
        say("the compiled view kernel can't be kept (set NUMBA_CACHE_DIR to a writable folder): compiling each time")
        return njit(parallel=True, fastmath=True)(function)


@_cached
def views(
    pixels: Any,
    rows: Any,
    boxes: Any,
    windows: Any,
    factors: Any,
    order: Any,
    switches: Any,
    blur: Any,
    radius: Any,
    scaling: Any,
    taps: Any,
    workers: int,
    out: Any,
) -> None:
    """Write N views into `out`.

    Args:
        pixels: uint8 (bytes,).
        rows: int64 (N, 2), where the window's first pixel is in `pixels`, and the bytes of an image's row.
        boxes: float64 (N, 4), top, left, height, width, counted from the window's corner.
        windows: int64 (N, 2), height and width of the window.
        factors: float32 (N, 4); order: int8 (N, 4): as in `Parameters`.
        switches: bool (N, 4), grey before the jitter, jitter, grey after it, flip.
        blur: float32 (N, R), weights from the centre outwards; radius: int64 (N,), how many count, 0 for no blur.
        scaling: float32 (2, 3), what each channel is multiplied with and then added to.
        taps: upper bound of the resampling's taps.
        workers: in how many parts the batch is done.
        out: float32 (N, size, size, 3).
    """
    n, size = out.shape[0], out.shape[1]
    for worker in prange(workers):
        first = np.empty((2, size), np.int64)
        count = np.empty((2, size), np.int64)
        weights = np.empty((2, size, taps), np.float32)
        line = np.zeros(3 * windows[:, 1].max() + 4, np.float32)
        quads = np.empty(4 * size, np.float32)
        picture = np.empty((3, size * size), np.float32)
        scratch = np.empty((4, size + 2 * blur.shape[1]), np.float32)
        for i in range(worker * n // workers, (worker + 1) * n // workers):
            for axis in range(2):
                _resampling(boxes[i, axis], boxes[i, axis + 2], windows[i, axis], first[axis], count[axis], weights[axis])
            if switches[i, 3]:
                _reverse(first[1], count[1], weights[1])
            _crop(pixels, rows[i, 0], rows[i, 1], first, count, weights, line, quads, picture)
            _colours(picture, factors[i], order[i], switches[i])
            _finish(picture, blur[i, : 1 + radius[i]], scaling, scratch, out[i])


@njit(fastmath=True)
def _resampling(start: float, length: float, available: int, first: Any, count: Any, weights: Any) -> None:
    """Per output pixel: the first input pixel that counts, how many do, and their triangle weights."""
    scale = length / first.size
    support = max(scale, 1.0)
    for i in range(first.size):
        centre = start + (i + 0.5) * scale
        low = max(int(np.floor(centre - support + 0.5)), 0)
        high = min(int(np.ceil(centre + support - 0.5)), available)
        total = 0.0
        for k in range(high - low):
            total += max(1 - abs(low + k + 0.5 - centre) / support, 0.0)
        for k in range(high - low):
            weights[i, k] = max(1 - abs(low + k + 0.5 - centre) / support, 0.0) / total
        first[i], count[i] = low, high - low


@njit
def _reverse(first: Any, count: Any, weights: Any) -> None:
    """Flip the view: its columns are made in the opposite order."""
    first[:] = first[::-1].copy()
    count[:] = count[::-1].copy()
    weights[:] = weights[::-1].copy()


@njit(fastmath=True)
def _crop(
    pixels: Any, begin: int, stride: int, first: Any, count: Any, weights: Any, line: Any, quads: Any, picture: Any
) -> None:
    """The resampled crop: float32 (3, size * size) in [0, 1]. Rows first: that loop is long and contiguous."""
    size = first.shape[1]
    low = first[1].min()
    high = (first[1] + count[1]).max()
    for y in range(size):
        start = begin + first[0, y] * stride
        _weighted_rows(
            pixels, start + 3 * low, stride, weights[0, y], count[0, y], line[3 * low : 3 * high]
        )
        _weighted_columns(line, first[1], count[1], weights[1], quads)
        red, green, blue = (
            picture[0, y * size : (y + 1) * size],
            picture[1, y * size : (y + 1) * size],
            picture[2, y * size : (y + 1) * size],
        )
        for x in range(size):
            red[x] = quads[4 * x]
            green[x] = quads[4 * x + 1]
            blue[x] = quads[4 * x + 2]


@njit(fastmath=True)
def _weighted_rows(pixels: Any, start: int, stride: int, weights: Any, count: int, out: Any) -> None:
    """The weighted sum of `count` rows of the image, / 255."""
    n = out.size
    w = weights[0] / np.float32(255)
    row = pixels[start : start + n]
    for j in range(n):
        out[j] = w * np.float32(row[j])
    for k in range(1, count):
        w = weights[k] / np.float32(255)
        row = pixels[start + k * stride : start + k * stride + n]
        for j in range(n):
            out[j] += w * np.float32(row[j])


@njit(fastmath=True)
def _weighted_columns(line: Any, first: Any, count: Any, weights: Any, quads: Any) -> None:
    """The same along a row; four floats a pixel (the fourth is of no use) so that they fill a vector."""
    three = np.uint64(3)
    for x in range(first.size):
        base = np.uint64(3 * first[x])
        a = b = c = d = ZERO
        for k in range(count[x]):
            w = weights[x, k]
            a += w * line[base]
            b += w * line[base + np.uint64(1)]
            c += w * line[base + np.uint64(2)]
            d += w * line[base + three]
            base += three
        quads[4 * x] = a
        quads[4 * x + 1] = b
        quads[4 * x + 2] = c
        quads[4 * x + 3] = d


@njit(fastmath=True)
def _colours(picture: Any, factors: Any, order: Any, switches: Any) -> None:
    """Grey, the jitter in its drawn order, grey; contrast wants the whole view's mean, so it parts the work."""
    pixels = picture.shape[1]
    middle = 0
    while order[middle] != CONTRAST:
        middle += 1
    mean = ZERO
    if switches[1]:
        total = 0.0
        for start in range(0, pixels, BLOCK):
            block = picture[:, start : start + BLOCK]
            r, g, b = block[0], block[1], block[2]
            if switches[0]:
                _grey(r, g, b)
            for place in range(middle):
                _adjust(order[place], factors, r, g, b)
            total += _sum_of_luma(r, g, b)
        mean = np.float32(total / pixels)
    if not (switches[0] or switches[1] or switches[2]):
        return
    for start in range(0, pixels, BLOCK):
        block = picture[:, start : start + BLOCK]
        r, g, b = block[0], block[1], block[2]
        if switches[1]:
            _contrast(factors[CONTRAST], mean, r, g, b)
            for place in range(middle + 1, 4):
                _adjust(order[place], factors, r, g, b)
        elif switches[0]:
            _grey(r, g, b)
        if switches[2]:
            _grey(r, g, b)


@njit(fastmath=True)
def _adjust(operation: int, factors: Any, r: Any, g: Any, b: Any) -> None:
    factor = factors[operation]
    if operation == BRIGHTNESS:
        _brightness(factor, r, g, b)
    elif operation == SATURATION:
        _saturation(factor, r, g, b)
    else:
        _hue(factor, r, g, b)


@njit(fastmath=True)
def _clamp(x: float) -> float:
    return min(max(x, ZERO), ONE)


@njit(fastmath=True)
def _luma(r: float, g: float, b: float) -> float:
    return RED * r + GREEN * g + BLUE * b


@njit(fastmath=True)
def _grey(r: Any, g: Any, b: Any) -> None:
    for i in range(r.size):
        luma = _luma(r[i], g[i], b[i])
        r[i] = luma
        g[i] = luma
        b[i] = luma


@njit(fastmath=True)
def _sum_of_luma(r: Any, g: Any, b: Any) -> float:
    total = ZERO
    for i in range(r.size):
        total += _luma(r[i], g[i], b[i])
    return total


@njit(fastmath=True)
def _brightness(factor: float, r: Any, g: Any, b: Any) -> None:
    for i in range(r.size):
        r[i] = _clamp(factor * r[i])
        g[i] = _clamp(factor * g[i])
        b[i] = _clamp(factor * b[i])


@njit(fastmath=True)
def _contrast(factor: float, mean: float, r: Any, g: Any, b: Any) -> None:
    other = (ONE - factor) * mean
    for i in range(r.size):
        r[i] = _clamp(factor * r[i] + other)
        g[i] = _clamp(factor * g[i] + other)
        b[i] = _clamp(factor * b[i] + other)


@njit(fastmath=True)
def _saturation(factor: float, r: Any, g: Any, b: Any) -> None:
    for i in range(r.size):
        other = (ONE - factor) * _luma(r[i], g[i], b[i])
        r[i] = _clamp(factor * r[i] + other)
        g[i] = _clamp(factor * g[i] + other)
        b[i] = _clamp(factor * b[i] + other)


@njit(fastmath=True)
def _hue(turns: float, r: Any, g: Any, b: Any) -> None:
    """As `colour.adjust_hue`: selections instead of branches, so that it fills vectors."""
    shift = SIX * turns
    for i in range(r.size):
        red, green, blue = r[i], g[i], b[i]
        value = max(red, max(green, blue))
        chroma = value - min(red, min(green, blue))
        inverse = ONE / (chroma if chroma > ZERO else ONE)
        sector = np.float32(4) + (red - green) * inverse
        sector = np.float32(2) + (blue - red) * inverse if value == green else sector
        sector = (green - blue) * inverse if value == red else sector
        sector += shift
        r[i] = _clamp(value - chroma * _trapezoid(sector + np.float32(5)))
        g[i] = _clamp(value - chroma * _trapezoid(sector + np.float32(3)))
        b[i] = _clamp(value - chroma * _trapezoid(sector + np.float32(1)))


@njit(fastmath=True)
def _trapezoid(place: float) -> float:
    place -= SIX * np.floor(place * SIXTH)
    return _clamp(min(place, np.float32(4) - place))


@njit(fastmath=True)
def _finish(picture: Any, blur: Any, scaling: Any, scratch: Any, out: Any) -> None:
    """Blur, normalise, and write with the channels last."""
    size = out.shape[0]
    rows = picture.reshape(3, size, size)
    for y in range(size):
        line = out[y].reshape(-1)
        if blur.size == 1:
            _store(rows[0, y], rows[1, y], rows[2, y], scaling, line)
        else:
            for channel in range(3):
                _blur_row(rows[channel], y, blur, scratch[3], scratch[channel, :size])
            _store(scratch[0, :size], scratch[1, :size], scratch[2, :size], scaling, line)


@njit(fastmath=True)
def _blur_row(plane: Any, y: int, blur: Any, padded: Any, out: Any) -> None:
    """Row `y` of a plane, blurred downwards and then along; the edges are reflected."""
    size, radius = plane.shape[0], blur.size - 1
    middle = padded[radius : radius + size]
    _scaled(blur[0], plane[y], middle)
    for k in range(1, radius + 1):
        below = y + k if y + k < size else 2 * (size - 1) - y - k
        _add_scaled(blur[k], plane[abs(y - k)], plane[below], middle)
    for k in range(1, radius + 1):
        padded[radius - k] = middle[k]
        padded[radius + size - 1 + k] = middle[size - 1 - k]
    _scaled(blur[0], middle, out)
    for k in range(1, radius + 1):
        _add_scaled(blur[k], padded[radius - k : radius - k + size], padded[radius + k : radius + k + size], out)


@njit(fastmath=True)
def _scaled(weight: float, x: Any, out: Any) -> None:
    for i in range(out.size):
        out[i] = weight * x[i]


@njit(fastmath=True)
def _add_scaled(weight: float, x: Any, y: Any, out: Any) -> None:
    for i in range(out.size):
        out[i] += weight * (x[i] + y[i])


@njit(fastmath=True)
def _store(r: Any, g: Any, b: Any, scaling: Any, out: Any) -> None:
    """Normalised and interleaved."""
    scale, add = scaling[0], scaling[1]
    for x in range(r.size):
        out[3 * x] = scale[0] * r[x] + add[0]
        out[3 * x + 1] = scale[1] * g[x] + add[1]
        out[3 * x + 2] = scale[2] * b[x] + add[2]
