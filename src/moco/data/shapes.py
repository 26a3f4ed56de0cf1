"""The built-in data set `shapes`: pictures of ten glyphs, drawn by a formula, so that a demo needs no download.

A picture holds several copies of one glyph, and the glyph is its class. Everything else is nuisance and is
drawn anew for every copy and every spot: place, size, rotation, stretch, colour, lighter or darker than the
background, whose colours drift under noise of every grain, with lines and dots that all classes share.
So two crops of a picture have little in common but the glyph: pixels and random features tell little of the
class, a network that learns what survives the crops tells it well.

The arithmetic is integer apart from the rotations, and no draw depends on another picture: the same bytes on any
machine, in any order, from any number of processes.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from moco.randomness import Purpose, generator

CLASSES = ("disc", "ring", "square", "triangle", "star", "cross", "crescent", "bars", "corner", "hourglass")
SIZES = {"train": 5000, "val": 1000}
VERSION = 1  # raised with every change of the pictures: packed copies of the old ones are then left alone

SIDE = 64
_SPLITS = {"train": 0, "val": 1}
_REACH = 14  # pixels from a glyph's centre to the edge of its patch
_RADII = (8.0, 11.0)
_LIGHT = 200
_DARK = 54
_LINES = 0, 2
_DOTS = 0, 5
_FINE = 2  # samples a pixel, each way: the glyphs' edges are anti-aliased
_GRID = 256  # samples of a glyph's outline, over [-4, 4] each way
_CELLS = 3  # glyphs sit on a loose grid of 3 x 3
_COARSE = 4  # cells a side of the background's coarsest noise; every finer layer has twice as many
_NOISE = 10  # amplitude of each layer, in grey levels

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]


def make_image(split: str, index: int) -> NDArray[np.uint8]:
    """Picture `index` of `split` (`train` or `val`), uint8 RGB (64, 64, 3)."""
    rng = generator(0, Purpose.SHAPES, _SPLITS[split], index)
    canvas = _background(rng)
    _draw_clutter(canvas, rng)
    canvas = np.pad(canvas, ((_REACH, _REACH), (_REACH, _REACH), (0, 0)))
    label = label_of(index)
    cell = SIDE / _CELLS
    for place in range(_CELLS**2):
        shift = rng.uniform(-0.2, 0.2, 2)
        row, column = _REACH + ((np.array(divmod(place, _CELLS)) + 0.5 + shift) * cell).astype(int)
        _paint(canvas, row, column, _alpha(label, rng), _ink(rng))
    return canvas[_REACH:-_REACH, _REACH:-_REACH].clip(0, 255).astype(np.uint8)


def label_of(index: int) -> int:
    """The class of picture `index`, in either split: the classes take turns."""
    return index % len(CLASSES)


def _alpha(label: int, rng: np.random.Generator) -> Ints:
    """A copy of the class's glyph, turned, scaled and stretched: cover of each pixel, 0..4, int (P, P)."""
    angle, radius, stretch = rng.uniform(0, 2 * math.pi), rng.uniform(*_RADII), rng.uniform(0.88, 1.14)
    scale = _GRID / 8 / (radius * _FINE)
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
    at = np.arange(2 * _REACH * _FINE) - (_REACH * _FINE - 0.5)
    u = ((cos * at[None] + sin * at[:, None]) * stretch + _GRID / 2).astype(np.int32)
    v = ((cos * at[:, None] - sin * at[None]) / stretch + _GRID / 2).astype(np.int32)
    inside = _outlines()[label].take(v * _GRID + u)
    return inside[::2, ::2] + inside[::2, 1::2] + inside[1::2, ::2] + inside[1::2, 1::2]


def _ink(rng: np.random.Generator) -> Ints:
    """What a glyph is filled with: a light or a dark colour, int (3,)."""
    light = rng.random() < 0.5
    return rng.integers(_LIGHT, 256, 3, np.int32) if light else rng.integers(0, _DARK, 3, np.int32)


def _paint(canvas: Ints, row: int, column: int, alpha: Ints, ink: Ints) -> None:
    """Lay `ink` over the canvas around (row, column), as far as `alpha` covers."""
    patch = canvas[row - _REACH : row + _REACH, column - _REACH : column + _REACH]
    patch += (ink - patch) * alpha[..., None] // _FINE**2


def _background(rng: np.random.Generator) -> Ints:
    """Drifting colours and noise around mid-grey, from coarse to fine, int (64, 64, 3)."""
    canvas = np.full((_COARSE, _COARSE, 3), 122, np.int32)
    while True:
        canvas += rng.integers(-_NOISE, _NOISE + 1, canvas.shape, np.int32)
        if len(canvas) == SIDE:
            return canvas
        canvas = _double(_double(canvas).swapaxes(0, 1))


def _double(values: Ints) -> Ints:
    """Twice as long along the first axis, (n, ...) -> (2n, ...), interpolated in whole numbers."""
    before = np.concatenate([values[:1], values[:-1]])
    after = np.concatenate([values[1:], values[-1:]])
    return np.stack([3 * values + before, 3 * values + after], 1).reshape(-1, *values.shape[1:]) // 4


def _draw_clutter(canvas: Ints, rng: np.random.Generator) -> None:
    """Lines and dots of any colour, the same for all classes."""
    side = len(canvas)
    for _ in range(rng.integers(*_LINES)):
        ends = rng.integers(0, side - 2, (2, 2))
        steps = np.arange(64)[:, None]
        rows, columns = (ends[0] + (ends[1] - ends[0]) * steps // 63).T
        colour = rng.integers(0, 256, 3)
        for across in range(rng.integers(1, 3)):
            canvas[rows + across, columns] = colour
    for row, column, size in rng.integers((0, 0, 1), (side, side, 4), (rng.integers(*_DOTS), 3)):
        canvas[row : row + size, column : column + size] = rng.integers(0, 256, 3)


@cache
def _outlines() -> NDArray[np.uint8]:
    """The glyphs, 1 inside: int (10, GRID * GRID), over x and y in [-4, 4]."""
    at = (np.arange(_GRID) + 0.5) * (8 / _GRID) - 4
    x, y = np.broadcast_arrays(at[None], at[:, None])
    return np.stack([_inside(name, x, y) for name in CLASSES]).reshape(len(CLASSES), -1).astype(np.int32)


def _inside(name: str, x: Floats, y: Floats) -> NDArray[np.bool_]:
    """Whether the points lie in the glyph, which fits the circle of radius 1 (in area they are much alike)."""
    square_radius = x * x + y * y
    match name:
        case "disc":
            return square_radius < 0.7
        case "ring":
            return (square_radius < 1) & (square_radius > 0.3)
        case "square":
            return np.maximum(abs(x), abs(y)) < 0.76
        case "triangle":
            return (y > -0.55) & (y < 1 - 1.75 * abs(x))
        case "star":
            return _star(x, y)
        case "cross":
            return (np.minimum(abs(x), abs(y)) < 0.27) & (np.maximum(abs(x), abs(y)) < 0.95)
        case "crescent":
            return (square_radius < 1) & ((x - 0.5) ** 2 + y * y > 0.6)
        case "bars":
            return (abs(abs(x) - 0.52) < 0.25) & (abs(y) < 0.8)
        case "corner":
            return (np.maximum(abs(x), abs(y)) < 0.78) & (np.minimum(x, y) < -0.28)
        case "hourglass":
            return (abs(y) < 0.85) & (abs(x) < abs(y) * 0.85 + 0.06)
        case _:
            raise AssertionError(name)


def _star(x: Floats, y: Floats) -> NDArray[np.bool_]:
    """Five points: inside at least four of the five half-planes of the pentagram."""
    turns = [math.pi * (0.5 + 0.4 * k) for k in range(5)]
    return sum((x * math.cos(turn) + y * math.sin(turn) < 0.36).astype(np.int32) for turn in turns) >= 4  # type: ignore[return-value]
