"""Images of more than 8 bits a sample: their numbers as they are, before any of them becomes a grey level.

TIFFs are read by tifffile: Pillow takes the high byte of 16-bit colour, misreads planar 16-bit files and signed
bytes, doesn't turn white-is-zero round, and knows neither 10 and 14 bits nor half and double floats. 16-bit colour
PNGs are read by imagecodecs, since Pillow keeps their high bytes only. All else is Pillow's.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moco.data.png import SIGNATURE as PNG
from moco.data.turns import Turn

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NO_DATA_TAG = 42113  # GDAL_NODATA, https://gdal.org/drivers/raster/gtiff.html
ORIENTATION_TAG = 274
# What the readers raise over damaged bytes: named one by one, so that nothing else passes for damage.
DAMAGE = (
    OSError, ValueError, SyntaxError, TypeError, EOFError, LookupError, AttributeError, AssertionError, ArithmeticError,
    RuntimeError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
READABLE = "grey and RGB are read, with or without alpha"

Numbers = NDArray[Any]


class Unsupported(Exception):
    """A sound file of a layout that isn't read; the message says which."""


@dataclass(frozen=True)
class Kind:
    """What images share one range.

    Attributes:
        number: `uint16`, `int16`, `uint12`, ...; floats of every width are `float`.
        colour: whether there are three channels.
    """

    number: str
    colour: bool

    def __str__(self) -> str:
        return f"{self.number} {'colour' if self.colour else 'grey'}"

    @property
    def bits(self) -> int | None:
        """Bits of a whole number, None for floats."""
        found = re.search(r"\d+$", self.number)
        return int(found.group()) if found else None

    @property
    def full(self) -> tuple[float, float]:
        """The least and the greatest number that the type holds; 0 and 1 for floats."""
        bits = self.bits
        if bits is None:
            return 0.0, 1.0
        if self.number.startswith("uint"):
            return 0.0, 2.0**bits - 1
        return -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1


@dataclass(frozen=True)
class Deep:
    """One image of more than 8 bits.

    Attributes:
        kind: which range is its.
        numbers: (H, W) or (H, W, 3), of any real type.
        alpha: (H, W), 0 to 1, or None.
        premultiplied: whether the colours are multiplied by it already.
        no_data: the number that the file says stands for "no data", or None.
        white_is_zero: whether the least number is white.
        orientation: as in EXIF, 1 is upright.
        source: file format and kind of numbers, `TIFF uint16`.
    """

    kind: Kind
    numbers: Numbers
    alpha: NDArray[np.float32] | None
    premultiplied: bool
    no_data: float | None
    white_is_zero: bool
    orientation: int
    source: str

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Where there are data, bool in the shape of `numbers`."""
        good = np.isfinite(self.numbers)
        if self.no_data is not None:
            good &= ~equal(self.numbers, self.no_data)
        return good


def equal(numbers: Numbers, value: float) -> NDArray[np.bool_]:
    """Where they are `value`, to the precision of their type."""
    if numbers.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return np.asarray(numbers == numbers.dtype.type(value))
    limits = np.iinfo(numbers.dtype)
    return np.asarray(numbers == int(value)) if limits.min <= value <= limits.max else np.zeros(numbers.shape, bool)


def read_tiff(content: bytes, turn: Turn) -> Deep | None:
    """The numbers of a TIFF's first page, read when it is its `turn`; None for 8 bits and less, which are Pillow's.

    None also for what tifffile makes nothing of. Raises `Unsupported` for a layout that isn't read, and what
    tifffile raises over damaged numbers.
    """
    from tifffile import TiffFile

    try:
        file = TiffFile(io.BytesIO(content))
        page: Any = file.pages.first
        depth = int(np.max(page.bitspersample))
    except DAMAGE:
        return None
    with file:
        if depth <= 8 and np.all(np.equal(page.sampleformat, 1)):
            return None
        _check_size(page)
        if page.photometric == 5:  # CMYK of 16 bits: Pillow's
            return None
        if page.dtype is None or page.dtype.kind not in "uif" or not _plain(page):
            raise Unsupported(f"{layout_of(page)}: {READABLE}")
        turn.take((page.imagewidth, page.imagelength))
        numbers = page.asarray(maxworkers=1)
        if page.planarconfig == 2 and page.samplesperpixel > 1:
            numbers = np.moveaxis(numbers, 0, -1)
        no_data, orientation = page.tags.get(NO_DATA_TAG), page.tags.get(ORIENTATION_TAG)
        return _deep(
            numbers,
            bits=page.bitspersample,
            colours=3 if page.samplesperpixel >= 3 else 1,
            with_alpha=_has_alpha(page),
            premultiplied=1 in page.extrasamples,
            no_data=_number(no_data.value, page.dtype) if no_data else None,
            white_is_zero=page.photometric == 0 and 262 in page.tags,
            orientation=int(orientation.value) if orientation else 1,
            container="TIFF",
        )


def describe_tiff(content: bytes) -> str:
    """Bands and numbers of a TIFF, `13 bands of uint16`. Raises whatever tifffile raises over damage."""
    from tifffile import TiffFile

    with TiffFile(io.BytesIO(content)) as file:
        return layout_of(file.pages.first)


def layout_of(page: Any) -> str:
    """`13 bands of uint16`, with how they are meant where that isn't grey or RGB."""
    kinds = {1: "uint", 2: "int", 3: "float", 5: "complex int", 6: "complex"}
    bits = page.bitspersample
    number = page.dtype.name if page.dtype is not None else f"{bits}-bit {kinds.get(page.sampleformat, 'numbers')}"
    count = page.samplesperpixel
    meant = f" ({getattr(page.photometric, 'name', page.photometric)})"
    if page.photometric in (0, 1, 2):
        meant = ", not marked as RGB" if count in (3, 4) and page.photometric != 2 else ""
    return f"{count} band{'s' * (count != 1)} of {number}{meant}"


def read_png(content: bytes, orientation: int) -> Deep | None:
    """The numbers of a 16-bit PNG with several channels; None for any other file."""
    if not (content.startswith(PNG) and content[24:25] == b"\x10" and content[25:26] in (b"\x02", b"\x04", b"\x06")):
        return None
    from imagecodecs import png_decode

    numbers = png_decode(content)
    return _deep(numbers, 16, 3 if numbers.shape[-1] > 2 else 1, orientation=orientation, container="PNG")


def of_pillow(image: Image.Image, orientation: int) -> Deep | None:
    """The numbers of an image that Pillow loaded, if there are more than 8 bits."""
    if not (image.mode.startswith("I") or image.mode == "F"):
        return None
    numbers = np.asarray(image)
    if image.format == "PPM" and image.mode == "I":  # scaled to 16 bits, whatever its greatest number
        numbers = numbers.astype(np.uint16)
    deep = _deep(numbers, numbers.dtype.itemsize * 8, 1, orientation=orientation, container=str(image.format))
    nothing = image.info.get("transparency")  # of a PNG: the number that is transparent
    return replace(deep, alpha=(numbers != nothing).astype(np.float32)) if isinstance(nothing, int) else deep


def _deep(
    numbers: Numbers,
    bits: int,
    colours: int,
    orientation: int,
    container: str,
    with_alpha: bool = True,
    premultiplied: bool = False,
    no_data: float | None = None,
    white_is_zero: bool = False,
) -> Deep:
    """Split the colours, 1 or 3, from what follows them."""
    name = "float" if numbers.dtype.kind == "f" else f"{numbers.dtype.name.rstrip('0123456789')}{bits}"
    kind = Kind(name, colours == 3)
    source = f"{container} {numbers.dtype.name if name == 'float' else name}{' RGB' * kind.colour}"
    alpha = None
    if numbers.ndim == 3:
        if with_alpha and numbers.shape[2] > colours:
            alpha = _share(numbers[..., colours])
        numbers = numbers[..., :3] if colours == 3 else numbers[..., 0]
    return Deep(kind, numbers, alpha, premultiplied, no_data, white_is_zero, orientation, source)


def _share(alpha: Numbers) -> NDArray[np.float32]:
    """Alpha from 0 to 1. Whole numbers rarely say how many bits they use: the fewest that hold the greatest."""
    values = np.nan_to_num(alpha.astype(np.float32))
    most = float(values.max(initial=0.0))
    if alpha.dtype.kind == "f":
        scale = 1.0 if most <= 1 else most
    else:
        scale = 2.0 ** max(int(most).bit_length(), 8) - 1
    if most > 0 and values.min() == most:  # the same everywhere: no one meant a faint picture
        scale = most
    return (values / scale).clip(0, 1).astype(np.float32)


def _plain(page: Any) -> bool:
    """Whether a page is a flat picture: grey, grey and alpha, RGB, or RGB and more."""
    if page.imagedepth != 1 or isinstance(page.bitspersample, tuple):
        return False
    bands = page.samplesperpixel
    if page.photometric in (0, 1):
        return bands in (1, 3) or (bands == 2 and _has_alpha(page))
    return page.photometric == 2 and bands in (3, 4)


def _has_alpha(page: Any) -> bool:
    """Whether the last band is transparency; a fourth of RGB is unless the file says otherwise, as for Pillow."""
    extra = page.extrasamples
    return bool({1, 2} & set(extra)) if extra else page.samplesperpixel == 4


def _number(text: object, dtype: np.dtype[Any]) -> float | None:
    """GDAL's text as a number of the image's type; None if it is none, or the type can't hold it."""
    try:
        value = float(str(text).strip(" \0"))
    except ValueError:
        return None
    if dtype.kind == "f":
        return value
    limits = np.iinfo(dtype)
    return value if value.is_integer() and limits.min <= value <= limits.max else None


def _check_size(page: Any) -> None:
    """As Pillow does it: a small file may say that it is as large as the memory."""
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and page.imagewidth * page.imagelength > 2 * most:
        count = page.imagewidth * page.imagelength
        raise Image.DecompressionBombError(f"{count} pixels are more than {2 * most}: it could be a decompression bomb")
