"""Every oddity of real folders, made for real."""

from __future__ import annotations

import io
import struct
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms
from tests.conftest import picture
from tests.data.conftest import encoded

from moco.data import images, turns
from moco.data.folder import scan
from moco.data.images import BadImage, decode, read_picture
from moco.data.item import Item
from moco.data.levels import full_range
from moco.data.pack import load
from moco.data.ranges import Ranges
from moco.data.remarks import without_remarks
from moco.errors import UserError

SMOOTH = picture(3, 40, 60).resize((120, 80), Image.Resampling.BICUBIC)


def close(a: np.ndarray, b: np.ndarray, tolerance: float) -> None:
    assert a.shape == b.shape
    assert np.abs(a.astype(int) - b.astype(int)).mean() <= tolerance


def png(width: int, height: int, bits: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG put together by hand: Pillow writes no 16-bit RGB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# --- what is no image ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"hello, I am a text file\n" * 100, "not an image"),
        (b"\xff\xd8\xff", "."),
        (b"\x89PNG\r\n\x1a\n", "."),
        (b"P6\n0 0\n255\n", "."),
        (b"GIF89a" + bytes(7) + b"," + bytes(9) + b"\x02\x00;", "."),
        (b"<?xml version='1.0'?><svg/>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(%pipe%id) (w) file\n", "not an image"),
    ],
    ids=["empty", "text", "jpeg-magic", "png-magic", "zero-size-ppm", "zero-size-gif", "svg", "postscript"],
)
def test_no_image(content: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason) as caught:
        decode(content, 32)
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)  # no address: reasons are stored and compared


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM"])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.9])
def test_truncated(kind: str, share: float) -> None:
    whole = encoded(SMOOTH, kind)
    decode(whole, 32)
    with pytest.raises(BadImage):
        decode(whole[: int(len(whole) * share)], 32)


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "JPEG"])
def test_random_damage_is_bad_or_decodes(kind: str) -> None:
    whole = encoded(picture(0), kind)
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(30):
        content = bytearray(whole)
        for place in rng.integers(0, min(len(content), 400), 4):
            content[place] = rng.integers(256)
        with without_remarks():
            try:
                outcomes.add(decode(bytes(content), 16).dtype.name)
            except BadImage as error:
                outcomes.add(type(error).__name__)
    assert outcomes <= {"uint8", "BadImage"}
    assert "BadImage" in outcomes


@pytest.mark.parametrize("side", [20_000, 100_000])
def test_decompression_bomb(side: int) -> None:
    with pytest.raises(BadImage, match="decompression bomb"):
        decode(png(side, side, 8, 0, b"\0"), 32)


def test_large_but_no_bomb_gives_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 120 * 80 - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with without_remarks():
            assert decode(encoded(SMOOTH, "PNG"), 32).shape == (32, 48, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadImage, match="decompression bomb"):
        decode(encoded(SMOOTH, "PNG"), 32)


# --- every mode becomes RGB ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "kind", "tolerance"),
    [
        ("RGB", "PNG", 0),
        ("RGB", "JPEG", 12),
        ("RGB", "WEBP", 12),
        ("RGB", "BMP", 0),
        ("RGB", "TIFF", 0),
        ("RGB", "PPM", 0),
        ("RGBA", "PNG", 0),
        ("CMYK", "JPEG", 12),
        ("CMYK", "TIFF", 2),
        ("YCbCr", "TIFF", 2),
        ("P", "PNG", 25),
        ("P", "GIF", 25),
    ],
)
def test_colour_modes(mode: str, kind: str, tolerance: float) -> None:
    options = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    close(decode(encoded(SMOOTH.convert(mode), kind, **options), 80), np.asarray(SMOOTH), tolerance)


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("L", "JPEG"), ("LA", "PNG"), ("I;16", "PNG"), ("I;16", "TIFF"), ("I", "PPM")]
)
def test_grey_modes(mode: str, kind: str) -> None:
    grey = SMOOTH.convert("L")
    levels = np.asarray(grey).astype(np.uint16) * 257
    image = Image.fromarray(levels) if mode == "I;16" else grey.convert(mode)
    if mode == "I":
        image = Image.fromarray(levels.astype(np.int32))
    pixels = decode(encoded(image, kind), 80)
    close(pixels, np.asarray(grey.convert("RGB")), 3 if kind == "JPEG" else 0)


def test_dark_sixteen_bits_stay_dark() -> None:
    levels = np.full((20, 20), 200, np.uint16)  # of 65,535
    assert decode(encoded(Image.fromarray(levels), "PNG"), 20).max() == 1


def test_sixteen_bit_rgb_png() -> None:
    rng = np.random.default_rng(1)
    levels = rng.integers(0, 65536, (30, 25, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    pixels = decode(png(25, 30, 16, 2, rows), 25)
    assert np.abs(pixels.astype(int) - levels / 257).max() <= 1


@pytest.mark.parametrize("values", [(0.0, 1.0), (-3.0, 1e30), (np.nan, 1.0), (-np.inf, 2.0)])
def test_floats_without_a_range_run_from_zero_to_one(values: tuple[float, float]) -> None:
    levels = np.full((16, 16), values[1], np.float32)
    levels[:8] = values[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = decode(encoded(Image.fromarray(levels), "TIFF"), 16)
    assert (pixels[0, 0, 0], pixels[15, 0, 0]) == (0, 255)


def test_transparency_lies_on_white() -> None:
    rgba = np.zeros((20, 20, 4), np.uint8)
    rgba[:, :10] = (200, 0, 0, 255)
    rgba[:10, 10:] = (0, 0, 0, 128)
    image = Image.fromarray(rgba)
    for kind in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        pixels = decode(encoded(image, kind, **options), 20)
        assert pixels[15, 15].tolist() == [255, 255, 255]
        assert pixels[15, 5].tolist() == [200, 0, 0]
        assert np.abs(pixels[5, 15].astype(int) - 127).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette_with_transparency(kind: str) -> None:
    image = Image.new("P", (20, 20), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (0, 0, 10, 20))
    pixels = decode(encoded(image, kind, transparency=0), 20)
    assert pixels[5, 5].tolist() == [200, 100, 50]
    assert pixels[5, 15].tolist() == [255, 255, 255]


def bitmap(rgba: np.ndarray, masks: tuple[int, ...], header_bytes: int) -> bytes:
    """A 32-bit BITFIELDS BMP put together by hand: Pillow writes none."""
    height, width = rgba.shape[:2]
    order = np.argsort(masks)
    body = rgba[::-1][..., order].tobytes()
    header = struct.pack("<IiiHHIIiiII", header_bytes, width, height, 1, 32, 3, len(body), 0, 0, 0, 0)
    header += struct.pack(f"<{len(masks)}I", *masks)
    header += bytes(max(header_bytes - len(header), 0))
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(body), 0, 0, 14 + len(header)) + header + body


BGRA, RGBA = (0xFF0000, 0xFF00, 0xFF, 0xFF000000), (0xFF, 0xFF00, 0xFF0000, 0xFF000000)


@pytest.mark.parametrize("header_bytes", [56, 108, 124])
@pytest.mark.parametrize("masks", [BGRA, RGBA])
@pytest.mark.parametrize("alpha", [0, 255])
def test_bitmap_whose_alpha_is_unused(masks: tuple[int, ...], header_bytes: int, alpha: int) -> None:
    colours = np.asarray(SMOOTH)
    rgba = np.dstack([colours, np.full(colours.shape[:2], alpha, np.uint8)])
    assert np.array_equal(decode(bitmap(rgba, masks, header_bytes), 80), colours)


def test_bitmap_whose_alpha_is_used() -> None:
    rgba = np.dstack([np.asarray(SMOOTH), np.zeros((80, 120), np.uint8)])
    rgba[:40, :, 3] = 255
    pixels = decode(bitmap(rgba, BGRA, 108), 80)
    assert np.array_equal(pixels[:40], np.asarray(SMOOTH)[:40])
    assert (pixels[40:] == 255).all()


def test_palette_with_alpha_table() -> None:
    image = Image.new("P", (20, 20), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (0, 0, 10, 20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = decode(encoded(image, "PNG", transparency=bytes([0, 255])), 20)
    assert pixels[5, 5].tolist() == [200, 100, 50]
    assert pixels[5, 15].tolist() == [255, 255, 255]


def test_bilevel() -> None:
    pixels = decode(encoded(SMOOTH.convert("1"), "PNG"), 80)
    assert set(np.unique(pixels)) == {0, 255}


def test_lab() -> None:
    profile = ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(SMOOTH, ImageCms.createProfile("sRGB"), profile, outputMode="LAB")
    close(decode(encoded(lab, "TIFF"), 80), np.asarray(SMOOTH), 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (30, 20), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    close(decode(content, 20), np.asarray(frames[0]), 6)


# --- EXIF ---------------------------------------------------------------------------------------------------

QUADRANTS = np.zeros((16, 32, 3), np.uint8)
QUADRANTS[:8, :16], QUADRANTS[:8, 16:], QUADRANTS[8:, :16], QUADRANTS[8:, 16:] = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 0),
)
# How the stored picture must be turned to be seen upright, EXIF 2.3 table 6, in numpy's words.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    content = encoded(Image.fromarray(QUADRANTS), kind, exif=exif, **options)
    close(decode(content, 16), UPRIGHT[orientation](QUADRANTS), 3 if kind == "JPEG" else 0)


@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(40),
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x05\0\0\0\x63\0\0\0",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0",
    ],
    ids=["garbage", "offset-beyond", "count-beyond", "wrong-type", "orientation-99"],
)
def test_broken_exif_leaves_the_picture_upright(block: bytes) -> None:
    content = encoded(Image.fromarray(QUADRANTS), "JPEG", exif=block, quality=98, subsampling=0)
    with without_remarks():
        close(decode(content, 16), QUADRANTS, 3)


# --- sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(240, 160), (160, 240), (97, 97), (1000, 31), (33, 32), (511, 383)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_short_side_is_exact_and_the_aspect_kept(size: tuple[int, int], kind: str) -> None:
    pixels = decode(encoded(SMOOTH.resize(size), kind), 32)
    height, width = pixels.shape[:2]
    assert min(height, width) == min(32, *size)
    expected = 32 / min(size) if min(size) > 32 else 1.0
    assert abs(width - size[0] * expected) <= 1
    assert abs(height - size[1] * expected) <= 1
    assert pixels.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_never_upscaled(kind: str) -> None:
    assert decode(encoded(SMOOTH.resize((20, 11)), kind), 500).shape == (11, 20, 3)
    assert decode(encoded(SMOOTH.resize((1, 1)), kind), 500).shape == (1, 1, 3)


@pytest.mark.parametrize("short_side", [20, 32, 50, 80])
def test_jpeg_at_reduced_size_is_close_to_the_full_decode(short_side: int) -> None:
    large = SMOOTH.resize((480, 320), Image.Resampling.BICUBIC)
    content = encoded(large, "JPEG", quality=95)
    full = Image.fromarray(decode(content, 320))
    size = (short_side * 3 // 2, short_side)
    close(decode(content, short_side), np.asarray(full.resize(size, Image.Resampling.BICUBIC)), 2)


def test_grey_with_multiplied_alpha_goes_on_white() -> None:
    grey, alpha = np.full((8, 8), 60, np.uint8), np.full((8, 8), 128, np.uint8)
    file = io.BytesIO()
    tifffile.imwrite(file, np.dstack([grey, alpha]), photometric="minisblack", extrasamples=["assocalpha"])
    assert abs(int(decode(file.getvalue(), 8)[0, 0, 0]) - (60 + 127)) <= 2


def test_the_transparent_number_of_a_16_bit_png_is_white() -> None:
    image = Image.fromarray(np.repeat(np.array([[1000], [60000]], np.uint16), 8, 1))
    file = io.BytesIO()
    image.save(file, "PNG", transparency=1000)
    found = decode(file.getvalue(), 2)
    assert found[0].min() == 255 and 200 < found[1].max() < 255


def test_running_out_of_memory_is_not_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("moco.data.images._loaded", short)
    item = Item("a.png", Path("a.png"), 0, 0, 0)
    monkeypatch.setattr(Item, "read", lambda self: b"x")
    with pytest.raises(UserError, match=r"a\.png can't be decoded: not enough memory"):
        load(item, 8, full_range)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "cut JPEG", "deep TIFF", "deep PNG"])
def test_large_pictures_are_decoded_one_at_a_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = np.arange(40 * 30, dtype=np.uint16).reshape(40, 30) * 7
    buffer = io.BytesIO()
    picture = Image.fromarray(grey if kind.startswith("deep") else grey.astype(np.uint8))
    picture.save(buffer, kind.split()[-1])
    content = buffer.getvalue()[:-2] if kind.startswith("cut") else buffer.getvalue()
    inside, most, turned = [], [], images._turned

    def slowly(image: Image.Image, orientation: Any) -> Image.Image:
        inside.append(1)
        time.sleep(0.02)
        most.append(len(inside))
        inside.pop()
        return turned(image, orientation)

    monkeypatch.setattr(images, "_turned", slowly)
    expected = read_picture(content, 20).pixels
    for large, at_once in ((40 * 30, False), (40 * 30 - 1, True)):
        monkeypatch.setattr(turns, "LARGE", large)
        most.clear()
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda _: read_picture(content, 20).pixels, range(8)))
        assert all(np.array_equal(pixels, expected) for pixels in made)
        assert (max(most) == 1) == at_once
    with pytest.raises(BadImage):
        read_picture(content[: len(content) // 2], 20)
    assert not turns.PICTURES.locked()


def test_large_pictures_whose_range_is_found_in_others_do_not_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        Image.fromarray(np.full((8, 9), 1000 * number, np.uint16)).save(tmp_path / f"{number}.png")
    items = scan(str(tmp_path))
    ranges = Ranges("auto", [items])
    monkeypatch.setattr(turns, "LARGE", 1)
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda item: read_picture(item.read(), 8, ranges).pixels, items, timeout=30))
    assert [int(pixels.max()) for pixels in made] == sorted(int(pixels.max()) for pixels in made)
    assert not turns.PICTURES.locked() and not turns.SAMPLES.locked()
