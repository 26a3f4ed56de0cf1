"""A packed store of chunk files: the images of a cache of JPEGs, to the byte; whole, or begun anew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import write_pictures
from tests.data.conftest import write_tar

from moco.config import StoreConfig
from moco.data import chunks
from moco.data.chunks import MANIFEST, MARKER, Chunks, open_chunks
from moco.data.dataset import Dataset, facts, open_dataset
from moco.data.shipping import Shipped, ship
from moco.errors import Damaged, UserError

SIDE = 32


def packed(source: Path, out: Path, **config: Any) -> Shipped:
    return ship(str(source), str(source), out, StoreConfig(**config), SIDE)


def opened(spec: object, **config: Any) -> Dataset:
    return open_dataset(str(spec), StoreConfig(**config), SIDE)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 10_000)


@pytest.fixture
def store(labelled: Path, tmp_path: Path, small_chunks: None) -> Path:
    packed(labelled, tmp_path / "store")
    return tmp_path / "store"


def test_the_same_images_labels_and_fingerprints_as_a_cache_of_jpegs(store: Path, labelled: Path) -> None:
    found, cache = opened(store), opened(labelled, format="jpeg")
    assert found.fingerprints == cache.fingerprints
    assert found.classes == cache.classes and found.format == "jpeg" and found.source == str(store)
    for name in ("train", "val"):
        mine, theirs = getattr(found, name), getattr(cache, name)
        assert mine.names == theirs.names and np.array_equal(mine.labels, theirs.labels)
        assert mine.stored_bytes == theirs.stored_bytes and mine.nbytes == theirs.nbytes
        assert all(np.array_equal(mine.image(i), theirs.image(i)) for i in range(len(mine)))


def test_chunks_are_of_one_split_and_shuffled_and_no_image_crosses(store: Path) -> None:
    manifest = json.loads((store / MANIFEST).read_text())
    assert len(manifest["chunks"]) > 4 and max(manifest["chunks"]) <= 10_000
    train, val = open_chunks(store).splits.values()
    assert train.offsets.max() < val.offsets.min()
    assert val.offsets.min() in np.cumsum(manifest["chunks"])
    assert (np.diff(train.offsets) < 0).any()
    ends = np.cumsum(manifest["chunks"])
    for first, length in zip(train.offsets, train.lengths):
        assert np.searchsorted(ends, first, "right") == np.searchsorted(ends, first + length - 1, "right")
    first = train.labels[np.argsort(train.offsets)][:12]
    assert set(first.tolist()) == {0, 1}


def test_packing_again_gives_the_same_bytes(store: Path, labelled: Path, tmp_path: Path) -> None:
    packed(labelled, tmp_path / "again")
    for path in store.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_without_labels_and_from_a_tar(flat: Path, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "photos.tar", {path.name: path.read_bytes() for path in sorted(flat.iterdir())})
    made = packed(tar, tmp_path / "store")
    found = opened(tmp_path / "store")
    assert made.images == {"train": 24} and found.val is None and not found.train.labelled
    assert "without labels" in found.note and "has no labels" in found.no_val
    assert facts(str(tmp_path / "store"), StoreConfig()) == (24, SIDE)


def test_a_moved_store_is_the_same(store: Path, tmp_path: Path) -> None:
    before = opened(store).fingerprints
    assert opened(store.rename(tmp_path / "elsewhere")).fingerprints == before


def test_bad_images_are_left_out_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_pictures(tmp_path / "photos", 5)
    (source / "002.jpg").write_bytes(b"no image")
    made = packed(source, tmp_path / "store")
    assert [name for name, _ in made.skipped] == ["002.jpg"]
    capsys.readouterr()
    found = opened(tmp_path / "store")
    assert found.train.names == ["000.jpg", "001.jpg", "003.jpg", "004.jpg"]
    assert "4 images in the packed store, 1 left out" in capsys.readouterr().err
    with pytest.raises(UserError, match="too many"):
        opened(tmp_path / "store", max_bad=0.0)


def test_other_options_than_it_was_packed_with_are_refused_with_the_right_ones(store: Path) -> None:
    with pytest.raises(UserError, match=r"with other options: give --store.short_side 32, or pack it again"):
        open_dataset(str(store), StoreConfig(), 40)
    with pytest.raises(UserError, match=r"give --store.labels auto --store.holdout 0.1"):
        opened(store, labels="none", holdout=0.3)
    with pytest.raises(UserError, match=r"leave out --store\.format raw"):
        opened(store, format="raw")


# --- whole, or begun anew -----------------------------------------------------------------------------------


def test_only_a_new_an_empty_or_an_unfinished_folder_is_packed_into(
    store: Path, labelled: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="holds a packed store already"):
        packed(labelled, store)
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chunk-000000.bin").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        packed(labelled, foreign)
    assert [path.name for path in foreign.iterdir()] == ["chunk-000000.bin"]
    (tmp_path / "empty").mkdir()
    packed(labelled, tmp_path / "empty")


def test_what_a_kill_left_is_begun_anew_and_not_opened(store: Path, labelled: Path) -> None:
    whole = opened(store).fingerprints
    (store / MANIFEST).unlink()
    (store / "chunk-000000.bin").write_bytes(b"half")
    (store / "chunk-000099.bin").write_bytes(b"of a longer one")
    (store / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="isn't finished: run the `moco pack` that began it again"):
        opened(store)
    packed(labelled, store)
    assert opened(store).fingerprints == whole
    assert (store / "notes.txt").read_text() == "mine" and not (store / "chunk-000099.bin").exists()


def test_too_many_bad_images_leave_nothing_behind(tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "photos", 2)
    for i in range(12):
        (source / f"bad{i}.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match="are bad, too many"):
        packed(source, tmp_path / "store")
    assert {path.name for path in (tmp_path / "store").iterdir()} <= {MARKER, ".lock"}


def test_a_full_disk_is_a_line_and_leaves_nothing_behind(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(chunks.os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        packed(labelled, tmp_path / "store")
    monkeypatch.undo()
    assert not list((tmp_path / "store").glob("chunk-*"))
    assert packed(labelled, tmp_path / "store").images == {"train": 24, "val": 10}


def test_damage_is_found(store: Path, tmp_path: Path) -> None:
    def without(name: str) -> Path:
        copy = shutil.copytree(store, tmp_path / f"without-{name}")
        (copy / name).unlink()
        return copy

    def changed(name: str, content: bytes) -> Path:
        copy = shutil.copytree(store, tmp_path / f"changed-{name}")
        (copy / name).write_bytes(content)
        return copy

    for bad in (
        without("chunk-000001.bin"),
        without("labels.npy"),
        changed("chunk-000002.bin", b"short"),
        changed("chunk-000003.bin", b""),
        changed("sizes.npy", (store / "sizes.npy").read_bytes()[:-8]),
        changed("labels.npy", (store / "labels.npy").read_bytes()[:-8] + b"\1" * 8),
        changed(MANIFEST, b"{}"),
        changed(MANIFEST + "x", b"").with_name("without-labels.npy"),
    ):
        with pytest.raises(Damaged, match="the packed store"):
            open_chunks(bad)


def test_a_stretch_of_bytes_is_a_view_of_its_chunk(tmp_path: Path) -> None:
    files = []
    for n, content in enumerate((b"abc", b"defgh", b"i")):
        files.append(tmp_path / f"{n}")
        files[-1].write_bytes(content)
    found = Chunks(files)
    assert len(found) == 9
    assert [bytes(found[a:b]) for a, b in ((0, 3), (1, 2), (3, 8), (5, 6), (8, 9))] == [
        b"abc",
        b"b",
        b"defgh",
        b"f",
        b"i",
    ]


def test_what_lists_files_says_what_to_give_instead(store: Path) -> None:
    from moco.data.listing import list_images

    with pytest.raises(UserError, match=r"is a store that `moco pack` made"):
        list_images(str(store), StoreConfig(), SIDE)


def test_a_changed_byte_of_a_chunk_is_found(store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "flipped")
    content = bytearray((copy / "chunk-000001.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "chunk-000001.bin").write_bytes(content)
    with pytest.raises(Damaged, match=r"chunk-000001\.bin isn't what was written"):
        open_chunks(copy)
