"""One rule for each kind of numbers in a data set, the same whoever asks first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import picture, write_pictures
from tests.data.conftest import tiff

from moco.data.depth import Kind
from moco.data.folder import scan
from moco.data.ranges import SAMPLED_IMAGES, Ranges, evenly_spread
from moco.data.remarks import without_remarks

U16, I16, FLOAT = (Kind(name, False) for name in ("uint16", "int16", "float"))


def write(folder: Path, **numbers: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in numbers.items():
        (folder / f"{name}.tif").write_bytes(tiff(values))
    return folder


def ramp(low: float, high: float, name: str) -> np.ndarray:
    return np.linspace(low, high, 400).reshape(20, 20).astype(name)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 1000])
def test_every_beginning_is_spread_evenly(count: int) -> None:
    order = evenly_spread(count)
    assert sorted(order) == list(range(count))
    for size in (4, 16, 64):
        if count >= 2 * size:
            gaps = np.diff(sorted(order[:size]))
            assert gaps.max() <= 3 * count / size


def test_neighbours_share_a_range(tmp_path: Path) -> None:
    items = scan(str(write(tmp_path, a=ramp(-921, 960, "i2"), b=ramp(156, 3921, "i2"), c=ramp(0.2, 0.9, "f8"))))
    ranges = Ranges("auto", [items])
    assert (ranges(I16).low, ranges(I16).high) == (-921, 3921)
    assert ranges(I16).sampled == 2
    assert (ranges(FLOAT).low, ranges(FLOAT).high) == (0, 1)
    assert Ranges("auto", [items[::-1]])(I16) == ranges(I16)


def test_training_images_decide(tmp_path: Path) -> None:
    train = scan(str(write(tmp_path / "train", a=ramp(0, 1000, "u2"))))
    val = scan(str(write(tmp_path / "val", a=ramp(0, 60_000, "u2"), b=ramp(-5, 300, "i2"))))
    ranges = Ranges("auto", [train, val])
    assert ranges(U16).high == 1023
    assert (ranges(I16).low, ranges(I16).high) == (-5, 300)  # there are none to train on


def test_full_and_given() -> None:
    assert (Ranges("full", [])(I16).low, Ranges("full", [])(I16).high) == (-32768, 32767)
    assert (Ranges("full", [])(FLOAT).low, Ranges("full", [])(FLOAT).high) == (0, 1)
    assert (Ranges("-100,2.5", [])(I16).low, Ranges("-100,2.5", [])(U16).high) == (-100, 2.5)


def test_a_sample_of_many(tmp_path: Path) -> None:
    content = tiff(ramp(0, 1000, "u2"))
    for i in range(SAMPLED_IMAGES + 30):
        (tmp_path / f"{i:03}.tif").write_bytes(content)
    assert Ranges("auto", [scan(str(tmp_path))])(U16).sampled == SAMPLED_IMAGES


def test_what_its_name_hides_counts_too(tmp_path: Path) -> None:
    write_pictures(tmp_path, 4)
    Image.fromarray(ramp(100, 4000, "u2")).save(tmp_path / "grey.png")
    (tmp_path / "grey.png").rename(tmp_path / "grey.jpg")
    picture(1).save(tmp_path / "eight.png")
    (tmp_path / "bad.tif").write_bytes(b"II*\0 no image")
    (tmp_path / "gone.tif").symlink_to("nowhere")
    ranges = Ranges("auto", [scan(str(tmp_path))])
    with without_remarks():
        assert (ranges(U16).low, ranges(U16).high, ranges(U16).sampled) == (0, 4095, 1)
