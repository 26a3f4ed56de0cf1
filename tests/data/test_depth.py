"""Every kind of number above 8 bits, in every container: the picture that the same numbers make with 8 bits."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import ExifTags, Image
from tests.conftest import picture
from tests.data.conftest import encoded, tiff

from moco.data.depth import Kind
from moco.data.images import BadImage, decode, read_deep, read_picture
from moco.data.levels import Range

GREY = np.asarray(picture(2, 48, 64).convert("L"))
COLOUR = np.asarray(picture(2, 48, 64))


def grey_of(content: bytes, low: float, high: float) -> np.ndarray:
    return decode(content, 500, lambda _: Range(low, high))[..., 0]


def scaled(bits: int, levels: np.ndarray = GREY) -> np.ndarray:
    """8-bit levels on a scale of more bits."""
    return (levels * ((2.0**bits - 1) / 255)).round()


# --- grey ---------------------------------------------------------------------------------------------------

WHOLE = {"uint16": 16, "int16": 15, "uint32": 32, "int32": 31, "int64": 40, "uint64": 40}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers(name: str, order: str) -> None:
    bits = WHOLE[name]
    content = tiff(scaled(bits).astype(name), byteorder=order)
    found = read_picture(content, 500, lambda _: Range(0, 2.0**bits - 1))
    assert np.array_equal(found.pixels[..., 0], GREY)
    assert (str(found.deep), found.source) == (f"{name} grey", f"TIFF {name}")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_floats_are_one_kind(name: str, order: str) -> None:
    content = tiff((GREY / 255).astype(name), byteorder=order)
    found = read_picture(content, 500)
    assert np.array_equal(found.pixels[..., 0], GREY)
    assert (found.deep, found.source) == (Kind("float", False), f"TIFF {name}")


@pytest.mark.parametrize("compression", ["lzw", "zlib", "zstd", "packbits"])
@pytest.mark.parametrize("name", ["uint16", "float32", "float64"])
def test_compressed(name: str, compression: str) -> None:
    predictor = True if compression in ("lzw", "zlib") else None
    content = tiff(scaled(12).astype(name), compression=compression, predictor=predictor, rowsperstrip=7)
    assert np.array_equal(grey_of(content, 0, 4095), GREY)
    for share in (0.3, 0.6, 0.95):
        with pytest.raises(BadImage):
            decode(content[: int(len(content) * share)], 500)


def packed_tiff(bits: int, order: str) -> bytes:
    """A TIFF whose numbers of 9 to 15 bits lie side by side, as cameras write them."""
    values = scaled(bits).astype(np.uint16)
    rows = [((row[:, None] >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8).ravel() for row in values]
    body = b"".join(np.packbits(row).tobytes() for row in rows)
    height, width = values.shape
    entries = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 122), (277, 1), (278, height)]
    tags = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in [*entries, (279, len(body))])
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 9)
    return head + tags + bytes(4) + body


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [9, 10, 12, 14])
def test_packed_bits(bits: int, order: str) -> None:
    found = read_picture(packed_tiff(bits, order), 500)  # the type holds as many: full is right
    assert np.array_equal(found.pixels[..., 0], GREY)
    assert str(found.deep) == f"uint{bits} grey"


def test_white_is_zero() -> None:
    assert np.array_equal(grey_of(tiff(65535 - scaled(16).astype("u2"), photometric="miniswhite"), 0, 65535), GREY)


def test_signed_bytes() -> None:
    assert np.array_equal(grey_of(tiff((GREY.astype(int) - 128).astype("i1")), -128, 127), GREY)


def test_sixteen_bit_pgm_is_on_its_own_scale() -> None:
    content = b"P5\n64 48\n4095\n" + scaled(12).astype(">u2").tobytes()
    assert np.array_equal(decode(content, 500)[..., 0], GREY)


# --- colour and alpha ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["uint16", "float32"])
@pytest.mark.parametrize(
    "options",
    [{}, {"planarconfig": "separate"}, {"compression": "lzw", "predictor": True}, {"byteorder": ">"}],
    ids=["contiguous", "planar", "lzw", "big-endian"],
)
def test_colour_tiff(name: str, options: dict[str, Any]) -> None:
    numbers = scaled(12, COLOUR).astype(name)
    if "planarconfig" in options:
        numbers = np.moveaxis(numbers, -1, 0)
    content = tiff(numbers, photometric="rgb", **options)
    assert np.array_equal(decode(content, 500, lambda _: Range(0, 4095)), COLOUR)


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_colour_png(bits: int) -> None:
    content = imagecodecs.png_encode(scaled(bits, COLOUR).astype(np.uint16))
    found = read_picture(content, 500, lambda _: Range(0, 2.0**bits - 1))
    assert np.array_equal(found.pixels, COLOUR)
    assert str(found.deep) == "uint16 colour"
    for share in (0.3, 0.9):
        with pytest.raises(BadImage):
            decode(content[: int(len(content) * share)], 500)


def with_alpha(levels: np.ndarray, bits: int) -> np.ndarray:
    """The left half seen, the right not."""
    alpha = np.zeros(levels.shape[:2])
    alpha[:, :32] = 255
    return scaled(bits, np.dstack([levels, alpha])).astype(np.uint16)


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("levels", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_transparency_lies_on_white(kind: str, levels: np.ndarray, bits: int) -> None:
    numbers = with_alpha(levels, bits)
    options = {"photometric": "rgb" if levels.ndim == 3 else "minisblack", "extrasamples": ["unassalpha"]}
    content = imagecodecs.png_encode(numbers) if kind == "PNG" else tiff(numbers, planarconfig="contig", **options)
    pixels = decode(content, 500, lambda _: Range(0, 2.0**bits - 1))
    assert (pixels[:, 32:] == 255).all()
    assert np.array_equal(pixels[:, :32], np.broadcast_to(levels.reshape(48, 64, -1), COLOUR.shape)[:, :32])


def test_a_fourth_band_that_is_no_alpha() -> None:
    numbers = np.dstack([scaled(12, COLOUR), np.zeros((48, 64))]).astype(np.uint16)
    content = tiff(numbers, photometric="rgb", extrasamples=["unspecified"])
    assert np.array_equal(decode(content, 500, lambda _: Range(0, 4095)), COLOUR)


# --- what isn't read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "options", "said"),
    [
        (np.zeros((13, 8, 9), np.uint16), {"planarconfig": "separate"}, "13 bands of uint16"),
        (np.zeros((8, 9, 13), np.uint16), {"planarconfig": "contig", "extrasamples": [0] * 12}, "13 bands of uint16"),
        (np.zeros((13, 8, 9), np.float32), {"planarconfig": "separate"}, "13 bands of float32"),
        (np.zeros((5, 8, 9), np.uint8), {"planarconfig": "separate"}, "5 bands of uint8"),
        (np.zeros((4, 8, 9), np.uint16), {"planarconfig": "separate"}, "4 bands of uint16, not marked as RGB"),
        (np.zeros((2, 8, 9), np.int16), {"planarconfig": "separate", "extrasamples": [0]}, "2 bands of int16"),
        (np.zeros((8, 9), np.complex64), {}, "1 band of complex64"),
        (np.zeros((8, 9), np.uint16), {"photometric": "cfa"}, "1 band of uint16 (CFA)"),
    ],
)
def test_bands_and_type_are_said(numbers: np.ndarray, options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadImage) as caught:
        decode(tiff(numbers, **{"photometric": "minisblack", **options}), 500)
    assert str(caught.value) == f"{said}: grey and RGB are read, with or without alpha"


def test_a_deep_bomb() -> None:
    content = bytearray(tiff(np.zeros((8, 9), np.float64)))
    for tag in (256, 257):
        at = content.index(struct.pack("<H", tag), 8)
        content[at : at + 12] = struct.pack("<HHII", tag, 4, 1, 100_000)
    with pytest.raises(BadImage, match="decompression bomb"):
        decode(bytes(content), 500)


# --- orientation, "no data" ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["uint16", "float64"])
def test_orientation_of_tiffs(name: str) -> None:
    content = tiff(scaled(12).astype(name), extratags=[(274, "H", 1, 6, True)])
    assert np.array_equal(grey_of(content, 0, 4095), np.rot90(GREY, -1))


@pytest.mark.parametrize("colour", [False, True])
def test_orientation_of_pngs(colour: bool) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    plain = imagecodecs.png_encode(scaled(16, COLOUR if colour else GREY).astype(np.uint16))
    chunk = struct.pack(">I4s", len(block), b"eXIf") + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    content = plain[:33] + chunk + plain[33:]
    expected = np.rot90(COLOUR if colour else np.dstack([GREY] * 3), -1)
    assert np.array_equal(decode(content, 500), expected)


@pytest.mark.parametrize(("text", "name", "value"), [("-9999", "float32", -9999), ("-1", "int16", -1), ("7", "u2", 7)])
def test_the_tag_for_no_data(text: str, name: str, value: int) -> None:
    numbers = scaled(12).astype(name)
    numbers[:10] = value
    deep = read_deep(tiff(numbers, extratags=[(42113, "s", 0, text, True)]))
    assert deep is not None
    assert not deep.valid[:10].any()
    assert deep.valid[10:].all() == (value < 0 or not (numbers[10:] == value).any())


@pytest.mark.parametrize("text", ["", "none", "-9999", "1e99", "0.5"])
def test_a_tag_that_the_type_can_t_hold(text: str) -> None:
    deep = read_deep(tiff(scaled(12).astype("u2"), extratags=[(42113, "s", 0, text, True)]))
    assert deep is not None
    assert deep.valid.all()


def test_eight_bits_are_never_touched() -> None:
    def refuse(_: Kind) -> Range:
        raise AssertionError("no range is needed")

    for kind, mode in (("PNG", "L"), ("PNG", "RGB"), ("TIFF", "L"), ("TIFF", "RGB"), ("TIFF", "CMYK"), ("JPEG", "L")):
        content = encoded(picture(3).convert(mode), kind)
        assert read_deep(content) is None
        assert read_picture(content, 20, refuse).deep is None
