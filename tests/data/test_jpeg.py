"""A JPEG that lacks its end marker alone is a picture; one that lacks anything else is not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from tests.conftest import picture
from tests.data.conftest import encoded

from moco.data.images import BadImage, read_picture

SIZES = [(128, 96), (117, 83), (33, 64)]
KINDS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 1},
    "full-chroma": {"subsampling": 0, "optimize": True},
    "coarse": {"quality": 5},
}


def jpeg(size: tuple[int, int], kind: str, mode: str = "RGB") -> bytes:
    return encoded(picture(4, size[1], size[0]).convert(mode), "JPEG", **KINDS[kind])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("short_side", [20, 500])
def test_without_an_end_marker(size: tuple[int, int], kind: str, mode: str, short_side: int) -> None:
    whole = jpeg(size, kind, mode)
    expected = read_picture(whole, short_side)
    assert expected.ended
    for content in (whole[:-2], whole[:-1], whole[:-2] + bytes(5), whole[:-2] + bytes(5000)):
        found = read_picture(content, short_side)
        assert not found.ended
        assert np.array_equal(found.pixels, expected.pixels)
        assert (found.width, found.height, found.source) == (expected.width, expected.height, expected.source)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_more_is_missing(size: tuple[int, int], kind: str, mode: str) -> None:
    whole = jpeg(size, kind, mode)
    for missing in (8, 20, 100, len(whole) // 3, len(whole) // 2):
        for padding in (b"", bytes(3000)):
            with pytest.raises(BadImage):
                read_picture(whole[:-missing] + padding, 500)


def test_scans_are_missing() -> None:
    whole = jpeg((128, 96), "progressive")
    starts = [at for at in range(len(whole) - 1) if whole[at : at + 2] == b"\xff\xda"]
    assert len(starts) > 5
    tables = [whole.rfind(b"\xff\xc4", 0, at) for at in starts]  # a scan's own Huffman table comes before it
    for scan in range(1, len(starts)):
        for end in (starts[scan], tables[scan]):
            with pytest.raises(BadImage):
                read_picture(whole[:end], 500)


def test_the_last_byte_of_the_data_decides() -> None:
    """Every cut near the end: whatever is taken for whole has the whole picture's pixels."""
    for kind in KINDS:
        whole = jpeg((117, 83), kind)
        expected = read_picture(whole, 500).pixels
        refused = 0
        for missing in range(1, 40):
            try:
                found = read_picture(whole[:-missing], 500)
            except BadImage:
                refused += 1
            else:
                assert np.array_equal(found.pixels, expected), (kind, missing)
        assert refused > 25


def test_damage_within_is_no_missing_end_marker() -> None:
    whole = bytearray(jpeg((128, 96), "baseline"))
    with Image.open(io.BytesIO(whole)) as image:
        assert image.size == (128, 96)
    del whole[-300:-40]
    with pytest.raises(BadImage):
        read_picture(bytes(whole[:-2]), 500)
