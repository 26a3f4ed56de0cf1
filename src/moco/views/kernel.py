"""The compiled view: one pass over each image while it sits in the cache (numba). `cpu.py` calls it.

All compiled functions stand in this one file: numba's cache notices changes of the file that the outermost one is
in, and no others. A view is computed by one thread from its own row of the parameters, so the bits don't
depend on the number of threads or on the rest of the batch. `fastmath` lets LLVM use fused multiply-adds and
vector sums; which ones is settled when it compiles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from moco.console import say
from moco.views.colour import GREY_WEIGHTS
from moco.views.parameters import BRIGHTNESS, CONTRAST, HUE, SATURATION

BLOCK = 1024  # pixels that the colour operations take at a time: 12 KiB, so that they stay in the first cache
RED, GREEN, BLUE = (np.float32(weight) for weight in GREY_WEIGHTS)
U1, U2, U3, U4, U5 = (np.uint64(number) for number in range(1, 6))
ZERO, ONE, SIX, SIXTH = (np.float32(number) for number in (0, 1, 6, 1 / 6))

# Without the wrappers that would let Python call them, these compile in less time. All go into `views`, for one that
# stayed a function by itself would be what it was compiled to alone in the process that compiles, and what became of
# it beside the others in one that loads the file: other bits where a loop ends (a sum, or fused into one operation).
_INNER: dict[str, Any] = {
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "forceinline": True,
}
compiled = njit(fastmath=True, **_INNER)
# Without reordered sums, or LLVM would make vectors of the three or four taps of a pixel.
compiled_in_order = njit(fastmath={"contract", "nnan", "ninf", "nsz"}, **_INNER)


# The types of the arguments of `views`: with others it fails instead of being compiled once more.
_SIGNATURE = (
    "void(u1[::1], i8[:,::1], f8[:,::1], f4[:,::1], i1[:,::1], b1[:,::1], f4[:,::1], i8[::1], f4[:,::1],"
    " i8, i8, f4[:,::1])"
)


def load() -> Any:
    """`views`, compiled. The machine code is kept where there is a folder that can be written."""
    try:
        return njit(_SIGNATURE, nogil=True, error_model="numpy", cache=True)(views)
    except RuntimeError:  # numba's word for "no such folder"
        say("the compiled view kernel can't be kept (set NUMBA_CACHE_DIR to a writable folder): compiling each time")
        return njit(_SIGNATURE, nogil=True, error_model="numpy")(views)


def views(
    pixels: Any,
    place: Any,
    box: Any,
    factors: Any,
    order: Any,
    switches: Any,
    blur: Any,
    radius: Any,
    scaling: Any,
    size: int,
    taps: int,
    out: Any,
) -> None:
    """Write N views into `out`, on the calling thread alone; any number of threads may be in here.

    Args:
        pixels: uint8 (bytes,).
        place: int64 (N, 4), where the window's first pixel is in `pixels`, the bytes of an image's row, and the
            window's height and width.
        box: float64 (N, 4), top, left, height, width, counted from the window's corner.
        factors: float32 (N, 4); order: int8 (N, 4): as in `Parameters`.
        switches: bool (N, 5), grey before the jitter, jitter, grey after it, flip, solarise.
        blur: float32 (N, 1 + R), weights from the centre outwards, R a multiple of 3; radius: int64 (N,), how
            many beside the centre's count, 0 for no blur; the others are 0.
        scaling: float32 (2, 3), what each channel is multiplied with, what is added then.
        taps: an upper bound of how many input pixels along one axis an output pixel depends on.
        out: float32 (N, size * size * 3), channels last.
    """
    _all(size, taps, pixels, place, box, factors, order, switches, blur, radius, scaling, out)


@compiled
def _all(
    size: int,
    taps: int,
    pixels: Any,
    place: Any,
    box: Any,
    factors: Any,
    order: Any,
    switches: Any,
    blur: Any,
    radius: Any,
    scaling: Any,
    out: Any,
) -> None:
    """The memory to work in, then the images one after the other."""
    widest = 0
    for i in range(len(out)):
        widest = max(widest, place[i, 3])
    first, count = np.empty((2, size), np.int64), np.empty((2, size), np.int64)
    weights = np.zeros((2, size, taps), np.float32)
    line = np.zeros(3 * widest + 4, np.float32)
    picture = np.empty((3, size * size), np.float32)
    spare = np.zeros(size * size + 2 * blur.shape[1], np.float32)
    for i in range(len(out)):
        for axis in range(2):
            begin, length, available = box[i, axis], box[i, axis + 2], place[i, axis + 2]
            _resampling(begin, length, available, axis == 1 and switches[i, 3], first[axis], count[axis], weights[axis])
        _crop(pixels, place[i, 0], place[i, 1], box[i, 3] <= size, first, count, weights, line, picture)
        _colours(picture, factors[i], order[i], switches[i])
        if radius[i]:
            for channel in range(3):
                _blur(picture[channel], size, blur[i], radius[i], spare)
        if switches[i, 4]:
            for channel in range(3):
                _solarise(picture[channel])
        _store(picture[0], picture[1], picture[2], scaling, out[i])


@compiled
def _resampling(start: float, length: float, available: int, flip: bool, first: Any, count: Any, weights: Any) -> None:
    """Per output pixel: the first input pixel that counts, how many do, and their triangle weights, then zeros."""
    size, taps = weights.shape
    scale = length / size
    support = max(scale, 1.0)
    for i in range(size):
        centre = start + (i + 0.5) * scale
        low = max(int(np.floor(centre - support + 0.5)), 0)
        high = min(int(np.ceil(centre + support - 0.5)), available)
        total = 0.0
        for k in range(high - low):
            total += max(1 - abs(low + k + 0.5 - centre) / support, 0.0)
        j = size - 1 - i if flip else i
        first[j], count[j] = low, high - low
        for k in range(taps):
            weight = max(1 - abs(low + k + 0.5 - centre) / support, 0.0)
            weights[j, k] = np.float32(weight / total if k < high - low else 0.0)


@compiled
def _part(picture: Any, start: int, length: int) -> Any:
    """Some pixels of the three planes; contiguous, so that loops over them fill vectors."""
    stop = start + length
    return picture[0, start:stop], picture[1, start:stop], picture[2, start:stop]


@compiled
def _crop(
    pixels: Any, begin: int, stride: int, two: bool, first: Any, count: Any, weights: Any, line: Any, picture: Any
) -> None:
    """The resampled crop: float32 (3, size * size) in [0, 1]. Rows first: that loop is long and contiguous.

    `two` says that no pixel has more than two taps along a row: wherever the view is wider than the crop.
    """
    size = first.shape[1]
    low = min(first[1, 0], first[1, size - 1])
    high = max(first[1, 0] + count[1, 0], first[1, size - 1] + count[1, size - 1])
    used = line[3 * low : 3 * high]
    for y in range(size):
        start = begin + first[0, y] * stride + 3 * low
        _weighted_rows(pixels, start, stride, weights[0, y], count[0, y], used)
        r, g, b = _part(picture, y * size, size)
        if two:
            _two_weighted_columns(line, first[1], weights[1], r, g, b)
        else:
            _weighted_columns(line, first[1], count[1], weights[1], r, g, b)


@compiled
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


@compiled_in_order
def _weighted_columns(line: Any, first: Any, count: Any, weights: Any, r: Any, g: Any, b: Any) -> None:
    """The same along a row of interleaved pixels, and the channels parted."""
    for x in range(first.size):
        place = np.uint64(3 * first[x])  # unsigned: no test for indices that count from the end
        red = green = blue = ZERO
        for k in range(count[x]):
            w = weights[x, k]
            red += w * line[place]
            green += w * line[place + U1]
            blue += w * line[place + U2]
            place += U3
        r[x], g[x], b[x] = red, green, blue


@compiled_in_order
def _two_weighted_columns(line: Any, first: Any, weights: Any, r: Any, g: Any, b: Any) -> None:
    """The same where no output pixel has more than two taps."""
    for x in range(first.size):
        place = np.uint64(3 * first[x])
        v, w = weights[x, 0], weights[x, 1]
        r[x] = v * line[place] + w * line[place + U3]
        g[x] = v * line[place + U1] + w * line[place + U4]
        b[x] = v * line[place + U2] + w * line[place + U5]


@compiled
def _colours(picture: Any, factors: Any, order: Any, switches: Any) -> None:
    """Grey, the jitter in its drawn order, grey; contrast wants the whole view's mean, so it parts the work."""
    grey_first, jitter, grey_last = switches[0], switches[1], switches[2]
    pixels = picture.shape[1]
    middle, total = 0, 0.0
    while order[middle] != CONTRAST:
        middle += 1
    if grey_first or jitter:
        for start in range(0, pixels, BLOCK):
            r, g, b = _part(picture, start, BLOCK)
            if grey_first:
                _grey(r, g, b)
            if jitter:
                _adjust(order[:middle], factors, r, g, b)
                total += _sum_of_luma(r, g, b)
    if jitter or grey_last:
        mean = np.float32(total / pixels)
        for start in range(0, pixels, BLOCK):
            r, g, b = _part(picture, start, BLOCK)
            if jitter:
                _contrast(factors[CONTRAST], mean, r, g, b)
                _adjust(order[middle + 1 :], factors, r, g, b)
            if grey_last:
                _grey(r, g, b)


@compiled
def _adjust(operations: Any, factors: Any, r: Any, g: Any, b: Any) -> None:
    for operation in operations:
        if operation == BRIGHTNESS:
            _brightness(factors[BRIGHTNESS], r, g, b)
        elif operation == SATURATION:
            _saturation(factors[SATURATION], r, g, b)
        else:
            _hue(factors[HUE], r, g, b)


@compiled
def _clamp(x: Any) -> Any:
    return min(max(x, ZERO), ONE)


@compiled
def _luma(r: Any, g: Any, b: Any) -> Any:
    return RED * r + GREEN * g + BLUE * b


@compiled
def _grey(r: Any, g: Any, b: Any) -> None:
    for i in range(r.size):
        luma = _luma(r[i], g[i], b[i])
        r[i] = luma
        g[i] = luma
        b[i] = luma


@compiled
def _sum_of_luma(r: Any, g: Any, b: Any) -> Any:
    total = ZERO
    for i in range(r.size):
        total += _luma(r[i], g[i], b[i])
    return total


@compiled
def _brightness(factor: Any, r: Any, g: Any, b: Any) -> None:
    for i in range(r.size):
        r[i] = _clamp(factor * r[i])
        g[i] = _clamp(factor * g[i])
        b[i] = _clamp(factor * b[i])


@compiled
def _contrast(factor: Any, mean: Any, r: Any, g: Any, b: Any) -> None:
    other = (ONE - factor) * mean
    for i in range(r.size):
        r[i] = _clamp(factor * r[i] + other)
        g[i] = _clamp(factor * g[i] + other)
        b[i] = _clamp(factor * b[i] + other)


@compiled
def _saturation(factor: Any, r: Any, g: Any, b: Any) -> None:
    for i in range(r.size):
        other = (ONE - factor) * _luma(r[i], g[i], b[i])
        r[i] = _clamp(factor * r[i] + other)
        g[i] = _clamp(factor * g[i] + other)
        b[i] = _clamp(factor * b[i] + other)


@compiled
def _hue(turns: Any, r: Any, g: Any, b: Any) -> None:
    """As `colour.adjust_hue`: selections instead of branches, so that it fills vectors."""
    shift = SIX * turns
    for i in range(r.size):
        red, green, blue = r[i], g[i], b[i]
        value = max(red, green, blue)
        chroma = value - min(red, green, blue)
        inverse = ONE / (chroma if chroma > ZERO else ONE)
        sector = np.float32(4) + (red - green) * inverse
        sector = np.float32(2) + (blue - red) * inverse if value == green else sector
        sector = (green - blue) * inverse if value == red else sector
        sector += shift
        r[i] = _clamp(value - chroma * _trapezoid(sector + np.float32(5)))
        g[i] = _clamp(value - chroma * _trapezoid(sector + np.float32(3)))
        b[i] = _clamp(value - chroma * _trapezoid(sector + np.float32(1)))


@compiled
def _trapezoid(place: Any) -> Any:
    place -= SIX * np.floor(place * SIXTH)
    return _clamp(min(place, np.float32(4) - place))


@compiled
def _blur(plane: Any, size: int, weights: Any, radius: int, spare: Any) -> None:
    """Blur a plane (size * size,) in place, down and then along; the edges are reflected.

    Three weights to each side at a time, over as many pixels as lie in one piece: rows far from the edge all at
    once, and along the rows the whole plane as if it were one, after which the columns near the edge are put right.
    """
    reach = (radius + 2) // 3 * 3
    inner = max(size - 2 * reach, 0)
    down = spare[reach : reach + plane.size]
    y = 0
    while y < size:
        rows = inner if inner and y == reach else 1
        _blur_down(plane, size, y, rows, weights[: 1 + reach], down)
        y += rows
    for k in range(1, reach, 3):
        low, high = reach - k, reach + k
        a, b = spare[low : low + plane.size], spare[high : high + plane.size]
        c, d = spare[low - 1 : low - 1 + plane.size], spare[high + 1 : high + 1 + plane.size]
        e, f = spare[low - 2 : low - 2 + plane.size], spare[high + 2 : high + 2 + plane.size]
        _add_pairs(k == 1, weights[0], weights[k : k + 3], down, a, b, c, d, e, f, plane)
    for y in range(size):
        _blur_ends(down[y * size : (y + 1) * size], weights[: 1 + radius], plane[y * size : (y + 1) * size])


@compiled
def _blur_down(plane: Any, size: int, y: int, rows: int, weights: Any, out: Any) -> None:
    """Rows from `y` on, blurred with those above and below."""
    n = rows * size
    target = out[y * size : y * size + n]
    for k in range(1, weights.size, 3):
        a, b = _rows(plane, size, y - k, n), _rows(plane, size, y + k, n)
        c, d = _rows(plane, size, y - k - 1, n), _rows(plane, size, y + k + 1, n)
        e, f = _rows(plane, size, y - k - 2, n), _rows(plane, size, y + k + 2, n)
        _add_pairs(k == 1, weights[0], weights[k : k + 3], _rows(plane, size, y, n), a, b, c, d, e, f, target)


@compiled
def _rows(plane: Any, size: int, y: int, pixels: int) -> Any:
    start = _reflected(y, size) * size
    return plane[start : start + pixels]


@compiled
def _blur_ends(row: Any, weights: Any, out: Any) -> None:
    """The first and last pixels of a row, which the edges are reflected for."""
    size, radius = row.size, weights.size - 1
    for x in range(min(2 * radius, size)):
        x = x if x < radius else x + max(size - 2 * radius, 0)
        total = weights[0] * row[x]
        for k in range(1, radius + 1):
            total += weights[k] * (row[_reflected(x - k, size)] + row[_reflected(x + k, size)])
        out[x] = total


@compiled
def _reflected(place: int, size: int) -> int:
    """Where a row or column beyond the edge is read; those that only weights of 0 ask for can be anywhere."""
    place = abs(place)
    return place if place < size else max(2 * (size - 1) - place, 0)


@compiled
def _add_pairs(
    begin: bool, w0: float, w: Any, centre: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, out: Any
) -> None:
    """Add three weighted pairs to `out`; to begin with, it is the weighted centre."""
    w1, w2, w3 = w[0], w[1], w[2]
    if begin:
        for i in range(out.size):
            out[i] = w0 * centre[i] + w1 * (a[i] + b[i]) + w2 * (c[i] + d[i]) + w3 * (e[i] + f[i])
    else:
        for i in range(out.size):
            out[i] += w1 * (a[i] + b[i]) + w2 * (c[i] + d[i]) + w3 * (e[i] + f[i])


@compiled
def _solarise(plane: Any) -> None:
    """What is brighter than half, inverted: the smaller of both, as the two meet at a half."""
    for i in range(plane.size):
        plane[i] = min(plane[i], ONE - plane[i])


@compiled
def _store(r: Any, g: Any, b: Any, scaling: Any, out: Any) -> None:
    """Normalised and interleaved."""
    scale, add = scaling[0], scaling[1]
    for x in range(r.size):
        out[3 * x] = scale[0] * r[x] + add[0]
        out[3 * x + 1] = scale[1] * g[x] + add[1]
        out[3 * x + 2] = scale[2] * b[x] + add[2]
