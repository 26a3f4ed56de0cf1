"""Image files to arrays: decoding with every oddity of real folders."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

SUFFIXES = frozenset(
    {
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm",
        ".pnm", ".avif", ".jp2", ".j2k", ".jpx",
    }
)  # fmt: skip
# The only readers that ever see a file, whatever its name says: Pillow's others include one that runs Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's readers raise over damaged bytes: named one by one, so that nothing else passes for damage.
_DAMAGE = (
    OSError, ValueError, SyntaxError, TypeError, EOFError, LookupError, AttributeError, AssertionError, MemoryError,
    ArithmeticError, RuntimeError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


class BadImage(Exception):
    """A file that is no readable image; the message says why."""


def decode(content: bytes, short_side: int) -> NDArray[np.uint8]:
    """uint8 RGB (H, W, 3) with the short side at `short_side` pixels, or the source's size if smaller.

    EXIF rotation is applied, transparency is put on white, of an animation the first frame is taken, 16 bits
    become 8, 32-bit numbers are stretched to their range. JPEGs are decoded at a reduced size where that is
    still at least the target. Raises `BadImage`, also for more pixels than Pillow takes for a decompression
    bomb (twice `PIL.Image.MAX_IMAGE_PIXELS`).
    """
    with _damage_named(content):
        image = to_rgb(_upright(content, short_side))
        target = _scaled(image.size, short_side)
        if target != image.size:
            image = image.resize(target, Image.Resampling.BICUBIC, reducing_gap=3.0)
        return np.asarray(image)


def header(content: bytes) -> tuple[int, int, str]:
    """Width and height in pixels as stored, and the kind (`JPEG RGB`), without decoding. Raises `BadImage`."""
    with _damage_named(content):
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        return image.width, image.height, f"{image.format} {image.mode}"


def looks_like_an_image(head: bytes) -> bool:
    """Whether a file that begins with `head` (some 64 bytes) is of a kind that is read, by its signature."""
    if head[:1] == b"P":  # PPM's own check would take a text that begins with "Python"
        return head[1:2] in tuple(b"123456"[i : i + 1] for i in range(6)) and head[2:3].isspace()
    if head[:2] == b"BM":
        return head[6:10] == bytes(4)
    if head[4:8] == b"ftyp":  # a family of containers that HEIC belongs to as well
        return b"avif" in head or b"avis" in head
    Image.init()
    return any(accept(head) is True for _, accept in (Image.OPEN[name] for name in FORMATS) if accept is not None)


@contextlib.contextmanager
def without_remarks() -> Iterator[None]:
    """Keep Pillow's warnings (odd EXIF, a large picture) off the screen while many files are decoded.

    Python's warning filters belong to the whole process: enter it once around the threads, not inside them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB: more than 8 bits scaled, transparency on white, CMYK and palettes converted."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image), image.mode)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


@contextlib.contextmanager
def _damage_named(content: bytes) -> Iterator[None]:
    """Turn what Pillow raises over bad content into `BadImage`."""
    if not content:
        raise BadImage("empty file")
    try:
        yield
    except Image.UnidentifiedImageError:
        raise BadImage(f"not an image ({', '.join(FORMATS)})") from None
    except _DAMAGE as error:
        raise BadImage(" ".join(str(error).split()) or type(error).__name__) from error


def _upright(content: bytes, short_side: int) -> Image.Image:
    """The first frame, turned as its EXIF says, at least `short_side` on the short side if the source is."""
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    if 0 in image.size:
        raise BadImage("it has no pixels")
    image.draft("RGB", _scaled(image.size, short_side))
    image.load()
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> Any:
    """EXIF's orientation; 1, upright, where there is none or the EXIF block is damaged: the pixels are fine."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DAMAGE:
        return 1


def _eight_bits(values: NDArray[np.generic], mode: str) -> NDArray[np.uint8]:
    """Whole numbers of 16 bits by their full scale; any others, floats too, from their least to their greatest."""
    with np.errstate(invalid="ignore"):  # NaN, which becomes 0
        levels = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = 0.0, 65535.0
    if mode == "F" or levels.min() < low or levels.max() > high:
        low, high = levels.min(), levels.max()
    return ((levels - low) * (255.0 / max(high - low, 1e-300))).round().astype(np.uint8)


def _scaled(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    width, height = size
    scale = short_side / min(width, height)
    if scale >= 1:
        return size
    return max(round(width * scale), 1), max(round(height * scale), 1)
