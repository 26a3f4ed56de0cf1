"""Pictures small enough to stand in a page: square WebP files as base64, of a size that keeps to a budget."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDES_PX = (72, 64, 56, 48, 40, 32, 24)  # the largest that keeps to the budget is taken
QUALITY = 62  # of WebP, from 0 to 100
TRIED = 64  # pictures that each side is tried on before all are encoded at it
Pixels = NDArray[np.uint8]  # RGB (H, W, 3)
Mapper = Callable[[Callable[[int], str], Sequence[int]], Sequence[str]]


def thumbnails(count: int, picture: Callable[[int], Pixels], budget_bytes: int, each: Mapper) -> tuple[list[str], int]:
    """(base64 of each of `count` pictures' WebP, their side in pixels): all together at most `budget_bytes` long.

    `each` maps a function over numbers, by threads if it likes. Where even the smallest side needs more, so be it: the
    caller chooses `count`.
    """
    tried = np.unique(np.linspace(0, max(count - 1, 0), min(TRIED, count)).astype(int)).tolist()
    for side in SIDES_PX:
        last = side == SIDES_PX[-1]
        seen = sum(len(thumbnail(picture(n), side)) for n in tried)
        if not last and seen * count > 0.95 * budget_bytes * max(len(tried), 1):
            continue
        made = [*each(lambda n, side=side: thumbnail(picture(n), side), range(count))]  # type: ignore[misc]
        if last or sum(map(len, made)) <= budget_bytes:
            return made, side
    raise AssertionError("the last side is always taken")


def thumbnail(pixels: Pixels, side: int, quality: int = QUALITY) -> str:
    """Base64 of a WebP, `side` x `side` pixels, of the largest square in the middle of `pixels`."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    left, top = (width - short) / 2, (height - short) / 2
    small = Image.fromarray(pixels).resize(
        (side, side), Image.Resampling.BILINEAR, (left, top, left + short, top + short), reducing_gap=2.0
    )
    return _webp(small, quality)


def whole(pixels: Pixels, most_px: int, quality: int = 75) -> str:
    """Base64 of a WebP of `pixels` as they are, made smaller if a side is above `most_px`."""
    image = Image.fromarray(pixels)
    image.thumbnail((most_px, most_px))
    return _webp(image, quality)


def _webp(image: Image.Image, quality: int) -> str:
    file = io.BytesIO()
    image.save(file, format="WEBP", quality=quality, method=2)
    return base64.b64encode(file.getvalue()).decode()
