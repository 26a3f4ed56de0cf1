"""The packed stores of a cache: what is shown of them, and that only what is proven ours is removed."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from tests.conftest import write_pictures

import moco
from moco.config import StoreConfig
from moco.data.cache import MARKER
from moco.data.dataset import open_dataset
from moco.errors import UserError
from moco.files import locked

DAY_S = 24 * 3600


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with two stores, of `one` (used twenty days ago) and `two` (used now)."""
    for number, name in enumerate(("one", "two")):
        write_pictures(tmp_path / name, 3 + number, 10 * number)
        open_dataset(str(tmp_path / name), StoreConfig(cache=str(tmp_path / "cache")), 32)
    old = next(Path(store.path) for store in moco.list_stores(tmp_path / "cache") if store.images == 3)
    os.utime(old / MARKER, (time.time() - 20 * DAY_S,) * 2)
    return tmp_path / "cache"


def test_what_is_shown(cache: Path, tmp_path: Path) -> None:
    two, one = moco.list_stores(cache)
    assert (two.images, one.images) == (4, 3) and two.ours and one.ours
    assert two.sources == [str(tmp_path / "two")] and one.sources == [str(tmp_path / "one")]
    assert two.unused_days < 0.1 and one.unused_days == pytest.approx(20, abs=0.1)
    assert one.disk_bytes > 3 * 32 * 32 * 3
    assert moco.list_stores(tmp_path / "nothing") == []


def test_opening_a_store_is_using_it(cache: Path, tmp_path: Path) -> None:
    open_dataset(str(tmp_path / "one"), StoreConfig(cache=str(cache)), 32)
    assert all(store.unused_days < 0.1 for store in moco.list_stores(cache))


def test_pruning_by_age_leaves_the_others(cache: Path, tmp_path: Path) -> None:
    pruned = moco.prune_stores(cache, older_than_days=10)
    assert [store.images for store in pruned.removed] == [3] and pruned.freed_bytes > 0 and pruned.notes == []
    assert [store.images for store in moco.list_stores(cache)] == [4]
    assert len([*cache.glob("*.source")]) == 1
    opened = open_dataset(str(tmp_path / "one"), StoreConfig(cache=str(cache)), 32)  # is packed again
    assert len(opened.train) == 3 and len(moco.list_stores(cache)) == 2


def test_a_store_without_the_marker_is_never_removed(cache: Path) -> None:
    theirs = Path(moco.list_stores(cache)[0].path)
    (theirs / MARKER).unlink()
    foreign = cache / "photos"
    shutil.copytree(theirs, foreign)
    pruned = moco.prune_stores(cache, everything=True)
    assert len(pruned.removed) == 1 and "no marker" in pruned.notes[0]
    assert (theirs / "images" / "pixels.npy").is_file() and (foreign / "images" / "pixels.npy").is_file()


def test_files_that_somebody_put_into_a_store_stay(cache: Path) -> None:
    store = Path(moco.list_stores(cache)[0].path)
    kept = ["notes.txt", "images/mine.npy", "mine/pixels.npy"]
    for name in kept:
        (store / name).parent.mkdir(exist_ok=True)
        (store / name).write_text("mine")
    pruned = moco.prune_stores(cache, everything=True)
    assert len(pruned.removed) == 2 and "files that aren't moco's" in pruned.notes[0]
    assert all((store / name).read_text() == "mine" for name in kept)
    assert not (store / "images" / "pixels.npy").exists() and (store / MARKER).exists()


def test_a_store_that_is_being_packed_again_is_left_alone(cache: Path) -> None:
    store = Path(moco.list_stores(cache)[0].path)
    with locked(cache / f"{store.name.split('-')[0]}.lock", "held"):
        pruned = moco.prune_stores(cache, everything=True)
    assert len(pruned.removed) == 1 and "a run is packing" in pruned.notes[0] and (store / "images").is_dir()


def test_an_open_store_can_be_read_on(cache: Path, tmp_path: Path) -> None:
    opened = open_dataset(str(tmp_path / "two"), StoreConfig(cache=str(cache)), 32)
    before = opened.train.image(1).copy()
    moco.prune_stores(cache, everything=True)
    assert (opened.train.image(1) == before).all()


@pytest.mark.parametrize("how", [{}, {"older_than_days": 3.0, "everything": True}, {"older_than_days": -1.0}])
def test_it_must_be_said_what_to_remove(cache: Path, how: dict[str, float]) -> None:
    with pytest.raises(UserError, match="older-than"):
        moco.prune_stores(cache, **how)  # type: ignore[arg-type]
    assert len(moco.list_stores(cache)) == 2
