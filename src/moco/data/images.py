"""Image files to arrays: decoding with every oddity of real folders."""

from __future__ import annotations

import io
import struct
import zlib
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
MAX_PIXELS = 178_956_970  # Pillow's own limit, above which a file is taken for a decompression bomb


class BadImage(Exception):
    """A file that is no readable image; the message says why."""


def decode(content: bytes, short_side: int) -> NDArray[np.uint8]:
    """uint8 RGB (H, W, 3) with the short side at `short_side` pixels, or the source's size if smaller.

    EXIF rotation is applied, transparency is put on white, of an animation the first frame is taken, 16 bits
    become 8. JPEGs are decoded at a reduced size where that is still at least the target. Raises `BadImage`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content))
            if image.width * image.height > MAX_PIXELS:
                raise BadImage(f"{image.width} x {image.height} pixels is too large")
            image.draft("RGB", _scaled(image.size, short_side))
            image = ImageOps.exif_transpose(image)
            image = to_rgb(image)
    except BadImage:
        raise
    except (OSError, ValueError, SyntaxError, TypeError, EOFError, KeyError, IndexError, MemoryError) as error:
        raise BadImage(" ".join(str(error).split()) or type(error).__name__) from error
    except (
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
        ArithmeticError,
        RuntimeError,
        struct.error,
        zlib.error,
    ) as error:
        raise BadImage(" ".join(str(error).split())) from error
    target = _scaled(image.size, short_side)
    if min(image.size) > short_side:
        image = image.resize(target, Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB: 16-bit scaled, transparency on white, CMYK and palettes converted."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float32)
        peak = 65535.0 if values.max(initial=0.0) > 255 else 255.0
        image = Image.fromarray((values.clip(0, peak) * (255.0 / peak)).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _scaled(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    width, height = size
    scale = short_side / min(width, height)
    if scale >= 1:
        return size
    return max(round(width * scale), 1), max(round(height * scale), 1)
