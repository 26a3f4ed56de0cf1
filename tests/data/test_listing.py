"""Every image of a place, in order, with labels where the folders have them, and a line where they don't say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.conftest import write_pictures

import moco
from moco.config import StoreConfig
from moco.data.dataset import open_dataset
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


@pytest.mark.parametrize("labelled", [False, True])
def test_two_places_with_the_same_names_keep_their_own_pictures(tmp_path: Path, labelled: bool) -> None:
    for n, name in enumerate(("day1", "day2")):
        for c in ("cat", "dog") if labelled else ("",):
            write_pictures(tmp_path / name / c, 3, 50 * n)
    spec, config = f"{tmp_path}/day1,{tmp_path}/day2", StoreConfig(cache=str(tmp_path / "cache"))

    def pictures() -> list[bytes]:
        found = list_images(spec, config, 32)
        return [found.load(n).picture.pixels.tobytes() for n in range(len(found))]  # type: ignore[union-attr]

    before = pictures()
    open_dataset(spec, config, 32)
    assert "decoded before" in list_images(spec, config, 32).note
    assert pictures() == before and len(set(before)) > len(before) // 3


def test_a_listing_reads_on_when_its_store_was_pruned(tmp_path: Path) -> None:
    photos, config = write_pictures(tmp_path / "photos", 4), StoreConfig(cache=str(tmp_path / "cache"))
    open_dataset(str(photos), config, 32)
    found = list_images(str(photos), config, 32)
    assert moco.prune_stores(tmp_path / "cache", older_than_days=0).removed
    assert all(found.load(n).picture is not None for n in range(4))
