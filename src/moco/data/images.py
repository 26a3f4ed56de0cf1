"""Image files to arrays: decoding with every oddity of real folders."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from moco.data.depth import (
    DAMAGE,
    READABLE,
    TIFF,
    Deep,
    Kind,
    Unsupported,
    describe_tiff,
    of_pillow,
    read_png,
    read_tiff,
)
from moco.data.jpeg import SIGNATURE as JPEG
from moco.data.jpeg import endings, has_end
from moco.data.levels import Range, full_range
from moco.data.png import SIGNATURE as PNG
from moco.data.png import damage, without_long_texts
from moco.data.turns import PICTURES, SAMPLES, Turn

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


NO_PIXELS: NDArray[np.uint8] = np.empty((0, 0, 3), np.uint8)


class BadImage(Exception):
    """A file that is no readable image; the message says why."""


@dataclass(frozen=True)
class Picture:
    """One image file, decoded.

    Attributes:
        pixels: uint8 RGB (H, W, 3).
        width, height: in pixels, as stored in the file.
        source: file format and mode, `JPEG RGB`.
        deep: the kind of its numbers if they have more than 8 bits.
        ended: False for a JPEG that lacks its end marker and nothing else.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    source: str
    deep: Kind | None = None
    ended: bool = True


def decode(content: bytes, short_side: int, ranges: Callable[[Kind], Range] = full_range) -> NDArray[np.uint8]:
    """uint8 RGB (H, W, 3) with the short side at `short_side` pixels, or the source's size if smaller.

    EXIF rotation is applied, transparency is put on white, of an animation the first frame is taken. More than 8
    bits become 8 by the range that `ranges` gives for the kind of numbers, else by all that the type holds. JPEGs
    are decoded at a reduced size where that is still at least the target. Raises `BadImage`, also for more pixels
    than Pillow takes for a decompression bomb (twice `PIL.Image.MAX_IMAGE_PIXELS`).
    """
    return read_picture(content, short_side, ranges).pixels


def read_picture(content: bytes, short_side: int, ranges: Callable[[Kind], Range] = full_range) -> Picture:
    """What `decode` gives, with what the file was. Raises `BadImage`."""
    with Turn(PICTURES) as turn, _damage_named(content):
        loaded = _loaded(content, short_side, turn)
        if isinstance(loaded, Deep):
            image = _turned(_eight_bits(loaded, ranges(loaded.kind)), loaded.orientation)
            height, width = loaded.numbers.shape[:2]
            about = Picture(NO_PIXELS, width, height, loaded.source, loaded.kind)
        else:
            image = to_rgb(_turned(loaded.image, _orientation(loaded.image)))
            about = Picture(NO_PIXELS, *loaded.size, loaded.source, ended=loaded.ended)
        target = scaled_size(image.size, short_side)
        if target != image.size:
            image = image.resize(target, Image.Resampling.BICUBIC, reducing_gap=3.0)
        return replace(about, pixels=np.asarray(image))


def can_be_deep(head: bytes) -> bool:
    """Whether a file that begins so (32 bytes are enough) may have more than 8 bits."""
    if head.startswith(PNG):
        return head[24:25] == b"\x10"
    return not head.startswith((JPEG, b"GIF8", b"BM", b"RIFF"))


def read_deep(content: bytes) -> Deep | None:
    """An image's numbers if they have more than 8 bits. Raises `BadImage`."""
    with Turn(SAMPLES) as turn, _damage_named(content):
        loaded = _loaded(content, 1, turn)
        return loaded if isinstance(loaded, Deep) else None


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


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode of 8 bits to RGB: transparency on white, CMYK and palettes converted."""
    if image.mode in ("La", "RGBa"):  # colours that are multiplied by alpha already
        image = image.convert(image.mode.upper())
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


@contextlib.contextmanager
def _damage_named(content: bytes) -> Iterator[None]:
    """Turn what the readers raise over bad content into `BadImage`."""
    if not content:
        raise BadImage("empty file")
    try:
        yield
    except Unsupported as error:
        raise BadImage(str(error)) from None
    except Image.UnidentifiedImageError:
        raise BadImage(_unidentified(content)) from None
    except DAMAGE as error:
        raise BadImage(" ".join(str(error).split()) or type(error).__name__) from error


def _unidentified(content: bytes) -> str:
    if content.startswith(TIFF):
        try:
            return f"{describe_tiff(content)}: {READABLE}"
        except DAMAGE:
            return "not a readable TIFF"
    return f"not an image ({', '.join(FORMATS)})"


@dataclass(frozen=True)
class _Loaded:
    """An image of 8 bits with its first frame loaded, and what its header said."""

    image: Image.Image
    size: tuple[int, int]
    source: str
    ended: bool


def _loaded(content: bytes, short_side: int, turn: Turn) -> _Loaded | Deep:
    """The first frame, not turned yet, at least `short_side` on the short side if the source is."""
    if content.startswith(TIFF):
        deep = read_tiff(content, turn)
        if deep is not None:
            return deep
    ended = not content.startswith(JPEG) or has_end(content)
    image = _opened(content if ended else _completed(content, turn))
    about = image.size, f"{image.format} {image.mode}"
    image.draft("RGB", scaled_size(image.size, short_side))
    turn.take(image.size)
    image.load()
    deep = read_png(content, _orientation(image)) or of_pillow(image, _orientation(image))
    if deep is not None:
        return deep
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return _Loaded(image.convert("RGB"), *about, ended)  # unused bytes, not a picture of nothing
    return _Loaded(image, *about, ended)


def _opened(content: bytes) -> Image.Image:
    if wrong := damage(content):
        raise BadImage(wrong)
    image = Image.open(io.BytesIO(without_long_texts(content)), formats=FORMATS)
    if 0 in image.size:
        raise BadImage("it has no pixels")
    return image


def _completed(content: bytes, turn: Turn) -> bytes:
    """A JPEG with its end marker put back. Raises `BadImage` if more than that is missing."""
    turn.take(_opened(content).size)  # opened, it says what it is if it is no JPEG at all
    first: NDArray[np.uint8] | None = None
    for whole in endings(content):
        pixels = np.asarray(_opened(whole))
        if first is None:
            first = pixels
        elif not np.array_equal(first, pixels):
            first = None
            break
    if first is None:
        raise BadImage("image file is truncated")
    return endings(content)[0]


def _orientation(image: Image.Image) -> Any:
    """EXIF's orientation; 1, upright, where there is none or the EXIF block is damaged: the pixels are fine."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except DAMAGE:
        return 1


def _turned(image: Image.Image, orientation: Any) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _eight_bits(deep: Deep, levels: Range) -> Image.Image:
    """Numbers to RGB; transparency is put on white."""
    grey = levels.grey_levels(deep)
    if deep.alpha is not None:
        alpha = deep.alpha.reshape(*deep.alpha.shape, *[1] * (grey.ndim - 2))
        lit = grey if deep.premultiplied else grey * alpha
        grey = (lit + 255 * (1 - alpha)).clip(0, 255).round().astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def scaled_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Width and height in pixels of a picture of `size` once its short side is `short_side`; never enlarged."""
    width, height = size
    scale = short_side / min(width, height)
    if scale >= 1:
        return size
    return max(round(width * scale), 1), max(round(height * scale), 1)
