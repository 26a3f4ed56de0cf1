"""Images kept as JPEG: what is written for each, and how it is read back into pixels.

Measured on Imagenette at 144 px (`benchmarks/store_format.md`): quality 95 with whole colour takes a fifth of raw's
bytes at 43 dB; with colour halved each way (4:2:0) a sixth at 40 dB. The pictures were scaled down before, so that
their colour is as sharp as their light: it is kept whole.
"""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from moco.data.jpeg import SIGNATURE

QUALITY = 95
WHOLE_COLOUR = 0  # Pillow's number of 4:4:4
LARGEST_SIDE = 65_535  # pixels that the format's header can count
ENCODING = f"jpeg, quality {QUALITY}, 4:4:4"  # a store of another kind is another store


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """A JPEG of uint8 RGB (H, W, 3), with Huffman tables of its own. Raises `ValueError` for more than 65,535 px."""
    if max(pixels.shape) > LARGEST_SIDE:
        raise ValueError(f"{pixels.shape[1]} x {pixels.shape[0]} px are more than a JPEG holds ({LARGEST_SIDE} a side)")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY, subsampling=WHOLE_COLOUR, optimize=True)
    return file.getvalue()


def smallest(pixels: NDArray[np.uint8], content: bytes) -> bytes:
    """What is kept of a file of `content` that was decoded, turned and scaled to `pixels`.

    The file itself where it is a JPEG that is smaller than `encode` would make it and gives these very pixels: then
    nothing is lost. Else what `encode` makes.
    """
    made = encode(pixels)
    return content if len(content) < len(made) and _is(content, pixels) else made


def decode_into(content: NDArray[np.uint8] | bytes, target: NDArray[np.uint8]) -> None:
    """Decode a JPEG into `target`, uint8 RGB (H, W, 3), contiguous; other threads go on meanwhile.

    Raises `ValueError` unless it is whole and of just that size.
    """
    height, width = simplejpeg.decode_jpeg_header(content)[:2]
    if (height, width) != target.shape[:2]:
        raise ValueError(f"a JPEG of {width} x {height} px where {target.shape[1]} x {target.shape[0]} were stored")
    simplejpeg.decode_jpeg(content, "RGB", buffer=target)


def _is(content: bytes, pixels: NDArray[np.uint8]) -> bool:
    """Whether the file is a JPEG that `decode_into` makes just `pixels` of."""
    if not content.startswith(SIGNATURE):
        return False
    found = np.empty_like(pixels)
    try:
        decode_into(content, found)
    except ValueError:  # of another size, of another colour space, or not quite whole
        return False
    return np.array_equal(found, pixels)
