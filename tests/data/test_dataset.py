"""`--data` to a packed store: made once, reused, made anew when something changed, whoever else is at it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import picture, write_pictures
from tests.data.conftest import write_tar

from moco.config import StoreConfig
from moco.data import shapes
from moco.data.dataset import cache_folder, open_dataset
from moco.data.store import Dataset
from moco.errors import UserError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "photos", 6)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def opened(spec: object, cache: Path, short_side: int = 24, **config: Any) -> Dataset:
    return open_dataset(str(spec), StoreConfig(cache=str(cache), **config), short_side)


def stores(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.is_dir())


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("moco.data.pack.read_picture", refuse)


# --- reuse --------------------------------------------------------------------------------------------------


def test_reused_without_decoding(photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(photos, cache)
    forbid_decoding(monkeypatch)
    second = opened(photos, cache)
    assert second.fingerprints == first.fingerprints
    assert np.array_equal(second.train.pixels, first.train.pixels)
    assert len(stores(cache)) == 1


def test_a_copy_elsewhere_shares_the_store(photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(photos, cache)
    forbid_decoding(monkeypatch)
    moved = photos.rename(photos.with_name("moved, with a comma"))
    assert len(opened(moved, cache).train) == 6


def test_splits_labels_and_sizes_have_stores_of_their_own(labelled: Path, cache: Path) -> None:
    both = opened(labelled, cache)
    assert both.val is not None
    assert (len(both.train), len(both.val), both.classes) == (24, 10, ["cat", "dog"])
    assert both.note == "24 train and 10 validation images, 2 classes"
    assert opened(labelled, cache, labels="none").val is None
    assert opened(labelled, cache, short_side=12).train.heights.max() == 12
    assert len(stores(cache)) == 3


def test_class_tree_holds_out(labelled: Path, cache: Path) -> None:
    data = opened(labelled / "train", cache, holdout=0.25)
    assert data.val is not None
    assert (len(data.train), len(data.val)) == (18, 6)
    assert not set(data.train.names) & set(data.val.names)


def test_tar_and_folder_have_the_same_pictures(photos: Path, cache: Path) -> None:
    tar = write_tar(photos.with_suffix(".tar"), {f"photos/{p.name}": p.read_bytes() for p in photos.iterdir()})
    assert opened(tar, cache).fingerprints == opened(photos, cache).fingerprints


def test_shapes(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "SIZES", {"train": 12, "val": 4})
    data = opened("shapes", cache)
    assert data.val is not None
    assert (len(data.train), len(data.val), data.classes) == (12, 4, list(shapes.CLASSES))
    assert np.array_equal(data.val.image(3), shapes.make_image("val", 3))
    assert opened("shapes", cache).fingerprints == data.fingerprints
    assert len(stores(cache)) == 1


# --- changes ------------------------------------------------------------------------------------------------


def test_a_changed_folder_is_packed_again_and_says_so(
    photos: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = opened(photos, cache)
    assert "changed" not in capsys.readouterr().err
    picture(99).save(photos / "new.jpg")
    after = opened(photos, cache)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "changed" in line]
    assert line.startswith(f"{photos} has changed since it was packed (6 images then, 7 now; old copy: {cache}/")
    assert line.endswith(": packing it again")
    assert len(after.train) == 7
    assert np.array_equal(before.train.image(0), after.train.image(0))  # still mapped: the old copy stays
    opened(photos, cache)
    assert "pack" not in capsys.readouterr().err


def test_another_size_is_no_change(photos: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened(photos, cache)
    opened(photos, cache, short_side=12)
    assert "changed" not in capsys.readouterr().err


def test_a_rewritten_file_is_a_change(photos: Path, cache: Path) -> None:
    before = opened(photos, cache)
    picture(99).save(photos / "000.jpg")
    after = opened(photos, cache)
    assert after.fingerprints != before.fingerprints
    assert not np.array_equal(after.train.image(0), before.train.image(0))


# --- damage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("file", ["pixels.npy", "offsets.npy", "manifest.json"])
@pytest.mark.parametrize("length", [0, 90])
def test_a_damaged_store_is_packed_again(
    labelled: Path, cache: Path, capsys: pytest.CaptureFixture[str], split: str, file: str, length: int
) -> None:
    before = opened(labelled, cache).fingerprints
    (store,) = stores(cache)
    path = store / split / file
    path.write_bytes(path.read_bytes()[:length])
    capsys.readouterr()
    assert opened(labelled, cache).fingerprints == before
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
    assert line.startswith(f"packed store {store / split} is damaged (")
    assert line.endswith("): packing it again")
    opened(labelled, cache)
    assert "pack" not in capsys.readouterr().err


def test_a_missing_split_is_damage(labelled: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened(labelled, cache)
    (store,) = stores(cache)
    (store / "val").rename(store / "gone")
    assert opened(labelled, cache).val is not None
    assert "damaged" in capsys.readouterr().err
    assert sorted(path.name for path in store.iterdir()) == ["train", "val"]


def test_a_damaged_record_stops_nothing(photos: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened(photos, cache)
    (record,) = cache.glob("*.source")
    for garbage in (b"\xff\0", b"[]", b"{}", b""):
        record.write_bytes(garbage)
        picture(len(garbage)).save(photos / f"{len(garbage)}.jpg")
        opened(photos, cache)
        assert "the record of it is damaged" in capsys.readouterr().err


# --- several at once, and killed ones -----------------------------------------------------------------------


PACK_SLOWLY = """
import json, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
from pathlib import Path
from moco.config import StoreConfig
from moco.data import pack
from moco.data.dataset import open_dataset
decode, decoded = pack.read_picture, 0
def slowly(*how):
    global decoded
    decoded += 1
    time.sleep(0.2)
    return decode(*how)
pack.read_picture = slowly
source, cache, ready, go = map(Path, sys.argv[1:])
ready.touch()
while not go.exists():
    time.sleep(0.001)
data = open_dataset(str(source), StoreConfig(cache=str(cache)), 24)
print(json.dumps([decoded, data.fingerprints]))
"""


def packing(source: Path, cache: Path, ready: Path, go: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PACK_SLOWLY, *map(str, (source, cache, ready, go))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.timeout(60)
def test_of_two_runs_at_once_one_packs(photos: Path, cache: Path, tmp_path: Path) -> None:
    ready, go = [tmp_path / "ready-a", tmp_path / "ready-b"], tmp_path / "go"
    runs = [packing(photos, cache, path, go) for path in ready]
    while not all(path.exists() for path in ready):
        assert all(run.poll() is None for run in runs)
        time.sleep(0.01)
    go.touch()
    answers = [run.communicate(timeout=50) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], answers
    (first, fingerprint), (second, other) = (json.loads(out) for out, _ in answers)
    assert sorted((first, second)) == [0, 6]
    assert fingerprint == other
    assert sum("another run is packing this data set, waiting for it" in error for _, error in answers) == 1
    assert len(stores(cache)) == 1


def start_packing(source: Path, cache: Path) -> subprocess.Popen[str]:
    run = packing(source, cache, cache.with_name("ready"), source)
    deadline = time.monotonic() + 30
    while not list(cache.glob("*.partial/*/pixels.npy")):
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return run


@pytest.mark.timeout(60)
def test_killed_while_packing(tmp_path: Path, cache: Path) -> None:
    photos = write_pictures(tmp_path / "photos", 40)
    run = start_packing(photos, cache)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    (partial,) = stores(cache)
    assert partial.suffix == ".partial"
    data = opened(photos, cache)
    assert len(data.train) == 40
    assert [path.suffix for path in stores(cache)] == [""]


@pytest.mark.timeout(60)
def test_what_killed_runs_left_is_removed_and_what_lives_is_not(tmp_path: Path, cache: Path) -> None:
    photos = write_pictures(tmp_path / "photos", 60)
    other = write_pictures(tmp_path / "other", 3)
    run = start_packing(photos, cache)
    opened(other, cache)  # while it packs
    assert len(list(cache.glob("*.partial"))) == 1
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert len(list(cache.glob("*.partial"))) == 1
    picture(5).save(other / "more.jpg")
    opened(other, cache)
    assert list(cache.glob("*.partial")) == []


@pytest.mark.timeout(60)
def test_ctrl_c_while_packing_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    run = start_packing(write_pictures(tmp_path / "photos", 60), cache)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=30)
    assert run.returncode != 0
    assert stores(cache) == []


# --- names and places ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [None, ""])
def test_no_data(spec: str | None) -> None:
    with pytest.raises(UserError, match="no data: give --data FOLDER"):
        open_dataset(spec, StoreConfig(), 24)


def test_names_of_the_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="run `moco download imagenette` first"):
        opened("imagenette", tmp_path / "cache")
    with pytest.raises(UserError, match="no such folder, and no data set of this name: did you mean imagenette"):
        opened("imagenete", tmp_path / "cache")
    with pytest.raises(UserError, match=r"--data photos/x: no such file or folder"):
        opened("photos/x", tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []
    write_pictures(tmp_path / "imagenette", 2)
    assert len(opened("imagenette", tmp_path / "cache").train) == 2  # a folder of that name wins


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOCO_CACHE", str(tmp_path / "environment"))
    assert cache_folder(StoreConfig(cache="~/x")) == Path.home() / "x"
    assert cache_folder(StoreConfig()) == tmp_path / "environment"
    monkeypatch.delenv("MOCO_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(StoreConfig()) == tmp_path / ".cache/moco"


def test_odd_names_pack(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / os.fsdecode(b"folder \xff\n")
    write_pictures(folder, 2)
    picture(7).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(folder / os.fsdecode(b"pic \xfe\n.png"))
    data = opened(folder, cache)
    assert data.train.names == ["000.jpg", "001.jpg", "pic \udcfe\n.png"]
    assert opened(folder, cache).fingerprints == data.fingerprints
