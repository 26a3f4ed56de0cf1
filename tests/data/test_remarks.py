"""What the readers say about odd files stays out of the terminal, and comes back afterwards."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
from PIL import Image
from tests.conftest import picture
from tests.data.conftest import encoded, tiff

from moco.data.images import BadImage, decode
from moco.data.remarks import without_remarks

FAX = encoded(picture(0, 90, 120).convert("1"), "TIFF", compression="group4")
THIRTEEN = tiff(np.zeros((13, 8, 9), np.uint8), planarconfig="separate", photometric="minisblack")
LOUD = [
    FAX[:100] + b"\x55" * 100 + FAX[200:],  # libtiff's own lines, on file descriptor 2
    tiff(np.zeros((8, 9), np.uint16), extratags=[(42113, "s", 0, "-9999", True)]),  # tifffile's log
    THIRTEEN,  # Pillow's log
    encoded(picture(0, 90, 120), "TIFF", compression="tiff_lzw")[:3000],
]


def read_all() -> None:
    for content in LOUD:
        try:
            decode(content, 20)
        except BadImage:
            continue


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_silence(capfd: pytest.CaptureFixture[str]) -> None:
    read_all()
    assert "Fax4Decode" in capfd.readouterr().err  # so it would be seen
    with without_remarks():
        read_all()
    assert capfd.readouterr() == ("", "")
    read_all()
    assert "Fax4Decode" in capfd.readouterr().err


def test_other_people_s_remarks_stay() -> None:
    log = logging.getLogger("PIL")
    before = log.handlers[:], log.propagate
    with without_remarks(), pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", UserWarning, stacklevel=1)
    assert (log.handlers, log.propagate) == before
    with pytest.raises(KeyError), without_remarks():
        raise KeyError
    assert (log.handlers, log.propagate) == before


def test_a_bomb_s_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90 * 120 - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with without_remarks():
            decode(encoded(picture(0, 90, 120), "PNG"), 20)
