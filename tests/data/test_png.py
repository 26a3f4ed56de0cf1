"""Texts, XMP and profiles of a PNG are nobody's business, however much they unpack to."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image
from tests.conftest import picture
from tests.data.conftest import encoded

from moco.data.images import BadImage, decode
from moco.data.png import without_long_texts

PLAIN = encoded(picture(1), "PNG")
PIXELS = np.asarray(picture(1))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunks(*chunks: bytes, last: bool = False) -> bytes:
    """`PLAIN` with chunks after its header, or before its end."""
    at = len(PLAIN) - 12 if last else 33
    return PLAIN[:at] + b"".join(chunks) + PLAIN[at:]


def text(kind: bytes, count: int) -> bytes:
    body = b"x" * count
    packed = zlib.compress(body)
    return chunk(
        kind,
        {
            b"tEXt": b"Comment\0" + body,
            b"zTXt": b"Comment\0\0" + packed,
            b"iCCP": b"profile\0\0" + packed,
            b"iTXt": b"XML:com.adobe.xmp\0\1\0\0\0" + packed,
        }[kind],
    )


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"iCCP"])
@pytest.mark.parametrize("count", [1000, 2**20 - 1, 2**20, 3_000_000])
def test_the_picture_is_there(kind: bytes, count: int, last: bool) -> None:
    assert np.array_equal(decode(with_chunks(text(kind, count), last=last), 500), PIXELS)


def test_many_texts_together() -> None:
    assert np.array_equal(decode(with_chunks(*[text(b"zTXt", 900_000)] * 100), 500), PIXELS)


def test_uncompressed_xmp() -> None:
    content = with_chunks(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"<x/>" * 700_000))
    assert np.array_equal(decode(content, 500), PIXELS)


def test_a_bomb_of_text_takes_no_memory() -> None:
    content = with_chunks(*[text(kind, 40_000_000) for kind in (b"zTXt", b"iTXt", b"iCCP")])
    assert len(content) < 200_000
    tracemalloc.start()
    decode(content, 500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_the_other_chunks_stay() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = Image.new("P", (40, 20), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    plain = encoded(image, "PNG", exif=exif, transparency=1)
    content = plain[:33] + text(b"zTXt", 2_000_000) + plain[33:]
    assert without_long_texts(content) == plain
    assert decode(content, 500).shape == (40, 20, 3)


@pytest.mark.parametrize("content", [b"", PLAIN, PLAIN[:50], PLAIN[:-3], encoded(picture(1), "JPEG")])
def test_anything_else_is_left_as_it_is(content: bytes) -> None:
    assert without_long_texts(content) is content


def test_damaged_texts_are_passed_over() -> None:
    broken = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 5_000_000)[:-30] + b"?" * 30)
    assert np.array_equal(decode(with_chunks(broken, chunk(b"iTXt", b"k\0\1\0"), chunk(b"zTXt", b"")), 500), PIXELS)


def test_zeros_in_the_place_of_pixels_are_damage() -> None:
    whole = encoded(picture(1, 200, 200), "PNG")
    for share in (0.3, 0.6, 0.95):
        kept = int(len(whole) * share)
        with pytest.raises(BadImage, match="damaged"):
            decode(whole[:kept] + bytes(len(whole) - kept), 500)
