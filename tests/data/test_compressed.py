"""JPEGs in a store: what is kept of a file, and that it is decoded to the stored size or refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tests.conftest import picture
from tests.data.conftest import encoded

from moco.data.compressed import decode_into, encode, smallest
from moco.data.images import decode


def decoded(content: bytes, like: np.ndarray) -> np.ndarray:
    found = np.empty_like(like)
    decode_into(content, found)
    return found


def photo(seed: int = 0, side: int = 160) -> np.ndarray:
    """A smooth picture, as photographs that were scaled down are."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side + 10, side), Image.Resampling.BICUBIC))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / ((a.astype(float) - b) ** 2).mean()))


def test_what_comes_back_is_near_and_colour_stays_sharp() -> None:
    pixels = photo()
    assert psnr(decoded(encode(pixels), pixels), pixels) > 45
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2, 0], stripes[:, 1::2, 2] = 255, 255  # red and blue, of one pixel: gone with halved colour
    found = decoded(encode(stripes), stripes)
    assert np.abs(found.astype(int) - stripes).mean() < 8


def test_a_file_that_gives_the_same_pixels_and_is_smaller_is_kept_as_it_is() -> None:
    content = encoded(picture(1, 90, 120), "JPEG", quality=70)
    pixels = decode(content, 500)
    assert smallest(pixels, content) is content
    assert np.array_equal(decoded(smallest(pixels, content), pixels), pixels)


def turned() -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    return encoded(picture(1, 90, 120), "JPEG", quality=70, exif=exif)


@pytest.mark.parametrize(
    ("content", "short_side"),
    [
        (turned(), 500),
        (encoded(picture(1, 90, 120), "JPEG", quality=70), 60),  # scaled
        (encoded(picture(1, 90, 120), "PNG"), 500),
        (encoded(picture(1, 90, 120).convert("CMYK"), "JPEG", quality=30), 500),
        (encoded(Image.fromarray(photo()), "JPEG", quality=100, subsampling=0), 500),  # larger
    ],
    ids=["turned", "scaled", "no JPEG", "CMYK", "larger"],
)
def test_any_other_file_is_encoded_anew(content: bytes, short_side: int) -> None:
    pixels = decode(content, short_side)
    kept = smallest(pixels, content)
    assert kept == encode(pixels)
    assert decoded(kept, pixels).shape == pixels.shape


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("progressive", [False, True])
def test_grey_and_progressive_files_are_kept_exactly(mode: str, progressive: bool) -> None:
    content = encoded(picture(3, 70, 90).convert(mode), "JPEG", quality=60, progressive=progressive)
    pixels = decode(content, 500)
    assert np.array_equal(decoded(smallest(pixels, content), pixels), pixels)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (17, 33)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    pixels = np.full((*size, 3), 77, np.uint8)
    assert np.abs(decoded(encode(pixels), pixels).astype(int) - 77).max() <= 2


def test_decoding_writes_the_target_and_nothing_else() -> None:
    pixels = photo(side=33)
    memory = np.full(pixels.size + 20, 9, np.uint8)
    decode_into(encode(pixels), memory[10:-10].reshape(pixels.shape))
    assert (memory[:10] == 9).all() and (memory[-10:] == 9).all()


def test_what_is_not_whole_or_of_another_size_is_refused() -> None:
    pixels = photo()
    content = encode(pixels)
    for bad in (b"", b"no JPEG", content[: len(content) // 2], content[:20]):
        with pytest.raises(ValueError, match="JPEG"):
            decode_into(bad, np.empty_like(pixels))
    with pytest.raises(ValueError, match="where 20 x 10 were stored"):
        decode_into(content, np.empty((10, 20, 3), np.uint8))


def test_a_picture_longer_than_the_format_counts_is_refused() -> None:
    with pytest.raises(ValueError, match="more than a JPEG holds"):
        encode(np.zeros((1, 65_536, 3), np.uint8))
