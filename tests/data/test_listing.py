"""Every image of a place, in order, with labels where the folders have them, and a line where they don't say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.conftest import write_pictures

from moco.config import StoreConfig
from moco.data.listing import list_images
from moco.errors import UserError


def test_all_splits_are_listed_and_what_lies_outside_has_no_label(tmp_path: Path) -> None:
    for split in ("train", "val", "other"):
        for n, name in enumerate(("cat", "dog")):
            write_pictures(tmp_path / split / name, 2, 10 * n)
    found = list_images(str(tmp_path), StoreConfig(), 32)
    assert found.names == sorted(found.names) and len(found) == 12
    labels = {name: found.label(n) for n, name in enumerate(found.names)}
    assert labels["train/dog/001.jpg"] == labels["val/dog/000.jpg"] == "dog" and labels["other/cat/000.jpg"] is None
    picture = found.load(0).picture
    assert picture is not None and min(picture.pixels.shape[:2]) == 32


def test_splits_that_training_would_refuse_are_no_obstacle(tmp_path: Path) -> None:
    for path in ("a/train", "a/val", "b/train"):
        write_pictures(tmp_path / path, 2)
    found = list_images(str(tmp_path), StoreConfig(), 32)
    assert "6 images without labels (train/ and its like are not at the top" in found.note and found.classes == []
    assert [found.label(n) for n in range(6)] == [None] * 6
    assert list_images(str(tmp_path), StoreConfig(labels="none"), 32).note == "6 images without labels (as asked)"
    with pytest.raises(UserError, match="labels from folders"):
        list_images(str(write_pictures(tmp_path / "flat", 2)), StoreConfig(labels="folders"), 32)


def test_the_built_in_pictures() -> None:
    found = list_images("shapes", StoreConfig(), 64)
    assert (len(found), found.names[5000], found.source) == (6000, "val/0", "shapes")
    first, again = found.load(7).picture, found.load(7).picture
    assert first is not None and again is not None and found.label(7) in found.classes
    np.testing.assert_array_equal(first.pixels, again.pixels)
