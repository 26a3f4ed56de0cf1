"""`moco preview` draws a picture of the right size that shows the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import SMALL

from moco.cli import main


def test_the_picture(flat: Path, tmp_path: Path) -> None:
    out = tmp_path / "views.png"
    assert main(["preview", *SMALL, "--data", str(flat), "--out", str(out), "--rows=3"]) == 0
    picture = np.asarray(Image.open(out))
    assert picture.shape == (3 * 36 + 4, 7 * 36 + 4, 3)  # 32 px and 4 between; the centre view and three pairs
    tiles = picture[4:36, 4:36], picture[4:36, 40:72]
    assert all(tile.std() > 5 for tile in tiles)
    assert (tiles[0] != tiles[1]).any()


def test_mistakes(flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["preview", *SMALL, "--data", str(flat)]
    assert main([*common, "--out", str(tmp_path / "views.jpg")]) == 2
    assert ".png" in capsys.readouterr().err
    assert main([*common, "--out", str(tmp_path / "v.png"), "--rows=0"]) == 2
    assert "--rows" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
