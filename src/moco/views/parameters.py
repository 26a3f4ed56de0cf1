"""The first half of a view: every random choice, drawn as arrays. No pixel is touched here."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from moco.config import CENTRE_SHARE
from moco.randomness import Purpose, uniforms
from moco.views.pipelines import Pipeline

CROP_ATTEMPTS = 10  # as torchvision's RandomResizedCrop
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
# Columns of the uniform draws: two per crop attempt, then one choice each.
_POSITION = 2 * CROP_ATTEMPTS
_JITTER, _FACTORS, _ORDER = _POSITION + 2, _POSITION + 3, _POSITION + 7
_GREY, _BLUR, _SIGMA, _FLIP = _POSITION + 11, _POSITION + 12, _POSITION + 13, _POSITION + 14
_SOLARISE = _POSITION + 15
_COUNT = _POSITION + 16


@dataclass(frozen=True)
class Parameters:
    """What happens to each of N images; row i belongs to image i.

    Attributes:
        box: float64 (N, 4), the crop's top, left, height, width in source pixels (may be fractional).
        window: int32 (N, 4), rows from, columns from, rows to, columns to: the pixels that may be read.
        factors: float32 (N, 4), brightness, contrast, saturation (1 = unchanged), hue (turns, 0 = unchanged).
        order: int8 (N, 4), the order in which the four are applied.
        jitter, grey, flip: bool (N,), whether each is done.
        sigma: float32 (N,), of the blur in output pixels, 0 for none.
        solarise: bool (N,), whether what is brighter than half is inverted.
    """

    box: NDArray[np.float64]
    window: NDArray[np.int32]
    factors: NDArray[np.float32]
    order: NDArray[np.int8]
    jitter: NDArray[np.bool_]
    grey: NDArray[np.bool_]
    flip: NDArray[np.bool_]
    sigma: NDArray[np.float32]
    solarise: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.box)

    def rows(self, index: slice | NDArray[np.int64]) -> Parameters:
        """The parameters of some of the images."""
        return Parameters(*(getattr(self, f.name)[index] for f in fields(self)))


def draw(
    pipeline: Pipeline,
    heights: NDArray[np.int32],
    widths: NDArray[np.int32],
    images: NDArray[np.int64],
    seed: int,
    epoch: int,
    view: int,
    purpose: Purpose = Purpose.VIEW,
) -> Parameters:
    """The parameters of one view of each image: a function of (seed, epoch, image number, view) alone.

    `heights` and `widths` (N,) are the images' sizes in pixels, `images` (N,) their numbers in the data set.
    """
    u = uniforms(_COUNT, seed, purpose, view, epoch, images)
    box = _crop_boxes(pipeline, np.asarray(heights, np.int64), np.asarray(widths, np.int64), u)
    strength = np.array(pipeline.jitter)
    factors = strength * (2 * u[:, _FACTORS : _FACTORS + 4] - 1) + np.array([1, 1, 1, 0])
    wide = u[:, _FACTORS : _FACTORS + 4] * (1 + strength)  # from 0: brightness and its like have no sign
    factors = np.where((strength > 1) & (np.arange(4) < 3), wide, factors)
    low, high = pipeline.blur_sigma
    sigma = np.where(u[:, _BLUR] < pipeline.blur_p, low + (high - low) * u[:, _SIGMA], 0)
    return Parameters(
        box=box.astype(np.float64),
        window=np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1).astype(np.int32),
        factors=factors.astype(np.float32),
        order=np.argsort(u[:, _ORDER : _ORDER + 4], axis=1, kind="stable").astype(np.int8),
        jitter=u[:, _JITTER] < pipeline.jitter_p,
        grey=u[:, _GREY] < pipeline.grey_p,
        flip=u[:, _FLIP] < pipeline.flip_p,
        sigma=sigma.astype(np.float32),
        solarise=u[:, _SOLARISE] < pipeline.solarise_p,
    )


def _crop_boxes(
    pipeline: Pipeline, height: NDArray[np.int64], width: NDArray[np.int64], u: NDArray[np.float64]
) -> NDArray[np.int64]:
    """RandomResizedCrop: the first of ten attempts that fits, else the largest centred crop; (N, 4) int."""
    smallest, largest = pipeline.scale
    narrow, wide = pipeline.ratio
    area = (height * width)[:, None] * (smallest + (largest - smallest) * u[:, 0:_POSITION:2])
    ratio = np.exp(math.log(narrow) + (math.log(wide) - math.log(narrow)) * u[:, 1:_POSITION:2])
    tried_w = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    tried_h = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (tried_w > 0) & (tried_w <= width[:, None]) & (tried_h > 0) & (tried_h <= height[:, None])
    first = fits.argmax(1)
    rows = np.arange(len(height))
    found = fits[rows, first]
    centred_h, centred_w = _centred(height, width, narrow, wide)
    h = np.where(found, tried_h[rows, first], centred_h)
    w = np.where(found, tried_w[rows, first], centred_w)
    top = np.where(found, np.floor(u[:, _POSITION] * (height - h + 1)), (height - h) // 2)
    left = np.where(found, np.floor(u[:, _POSITION + 1] * (width - w + 1)), (width - w) // 2)
    return np.stack([top.astype(np.int64), left.astype(np.int64), h, w], axis=1)


def _centred(
    height: NDArray[np.int64], width: NDArray[np.int64], narrow: float, wide: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Height and width of the largest crop whose ratio is allowed."""
    ratio = width / height
    h = np.where(ratio < narrow, np.rint(width / narrow), height).astype(np.int64)
    w = np.where(ratio > wide, np.rint(height * wide), width).astype(np.int64)
    return np.clip(h, 1, height), np.clip(w, 1, width)


def centre(size: int, heights: NDArray[np.int32], widths: NDArray[np.int32]) -> Parameters:
    """The evaluation view: short side to size x 256 / 224, then the centre crop. Nothing is random.

    Equal to torchvision's Resize then CenterCrop: pixels outside the crop take part in the resampling.
    """
    height, width = np.asarray(heights, np.int64), np.asarray(widths, np.int64)
    short = np.minimum(height, width)
    resized = round(size / CENTRE_SHARE)
    new_h, new_w = resized * height // short, resized * width // short
    scale_y, scale_x = height / new_h, width / new_w
    top, left = np.rint((new_h - size) / 2), np.rint((new_w - size) / 2)
    n = len(height)
    none = np.zeros(n, np.bool_)
    return Parameters(
        box=np.stack([top * scale_y, left * scale_x, size * scale_y, size * scale_x], axis=1),
        window=np.stack([0 * height, 0 * width, height, width], axis=1).astype(np.int32),
        factors=np.tile(np.array([1, 1, 1, 0], np.float32), (n, 1)),
        order=np.tile(np.arange(4, dtype=np.int8), (n, 1)),
        jitter=none,
        grey=none,
        flip=none,
        sigma=np.zeros(n, np.float32),
        solarise=none,
    )
