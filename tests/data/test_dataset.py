"""`--data` to a packed store: made once, reused, made anew when something changed, whoever else is at it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import picture, write_pictures
from tests.data.conftest import encoded, write_tar

from moco.config import StoreConfig
from moco.data import shapes
from moco.data.cache import MARKER
from moco.data.dataset import Dataset, cache_folder, open_dataset
from moco.data.folder import fingerprint, scan
from moco.data.images import decode
from moco.data.item import Item
from moco.data.listing import list_images
from moco.errors import UserError
from moco.files import sha256_of


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "photos", 6)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def opened(spec: object, cache: Path, short_side: int = 24, **config: Any) -> Dataset:
    return open_dataset(str(spec), StoreConfig(cache=str(cache), **config), short_side)


def decoded(photos: Path, number: int) -> np.ndarray:
    return decode(sorted(photos.iterdir())[number].read_bytes(), 24)


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


def test_labels_and_holdout_are_tables_beside_one_set_of_pixels(
    labelled: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = opened(labelled, cache)
    assert both.val is not None
    assert (len(both.train), len(both.val), both.classes) == (24, 10, ["cat", "dog"])
    assert both.note == "24 train and 10 validation images, 2 classes"
    opened(labelled / "train", cache)
    forbid_decoding(monkeypatch)
    unlabelled = opened(labelled, cache, labels="none")
    assert unlabelled.val is None
    assert unlabelled.train.labels.tolist() == [-1] * 24
    for holdout, held in ((0.25, 6), (0.5, 12), (0.0, 0)):
        data = opened(labelled / "train", cache, holdout=holdout)
        assert len(data.train) == 24 - held
        assert (0 if data.val is None else len(data.val)) == held
    assert len(stores(cache)) == 2


def test_another_short_side_is_another_store(labelled: Path, cache: Path) -> None:
    opened(labelled, cache)
    assert opened(labelled, cache, short_side=12).train.heights.max() == 12
    assert len(stores(cache)) == 2


def test_fingerprints_are_those_of_stores_of_a_split_each(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values that version 1 of the program recorded in its checkpoints: its runs still resume."""
    monkeypatch.setattr(shapes, "SIZES", {"train": 12, "val": 4})
    assert opened("shapes", cache).fingerprints == {
        "train": "308a8f70b36947c9270fb8f9de3c8bbb433914d0e7871e9a20850f0cb870ab74",
        "val": "6136fe1ea6cea5761ab973aab877b68aac779fd18a47935318db885379152201",
    }
    for c, name in enumerate(("a", "a b", "c")):
        (tmp_path / "tree" / name).mkdir(parents=True)
        for i in range(6):
            pixels = np.random.default_rng(10 * c + i).integers(0, 256, (5 + i, 9 - c, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"tree/{name}/{i}.png")
    (tmp_path / "tree/c/bad.png").write_bytes(b"no image")
    assert opened(tmp_path / "tree", cache).fingerprints == {
        "train": "f36b97b4464d52842f9991a89070aa067d8a238e98b09b6a8a6ffe31df6c7f9a",
        "val": "ca8e01d55891006932653b89e0b183971e5a4408d442a765fa405b2c6239d288",
    }
    assert opened(tmp_path / "tree", cache, holdout=0.3).fingerprints == {
        "train": "ddc68494a096f90fa13f020f1e01067bc8986ce5f006db36662699388a88c9bc",
        "val": "47e3c5ec29a312fdc28381656dc370b8f6105809fd6a962caab47b2ce42dba8d",
    }
    assert opened(tmp_path / "tree", cache, labels="none").fingerprints == {
        "train": "eed5f670bede8ba78ccd7c868f2619c9f36dea15a8541140e601751bb536f2f4"
    }


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


def twin(folder: Path, target: Path, first: int) -> Path:
    """Other pictures under the same names, of the same sizes in bytes and the same times."""
    target.mkdir()
    for i, path in enumerate(sorted(folder.iterdir())):
        size, status = path.stat().st_size, path.stat()
        content = encoded(picture(first + i), "JPEG", quality=60)
        (target / path.name).write_bytes(content.ljust(size, b"\0"))
        os.utime(target / path.name, ns=(status.st_atime_ns, status.st_mtime_ns))
    return target


def test_two_folders_of_equal_names_sizes_and_times_never_share(photos: Path, cache: Path, tmp_path: Path) -> None:
    other = twin(photos, tmp_path / "other", 50)
    first, second = opened(photos, cache), opened(other, cache)
    assert [p.stat().st_size for p in sorted(other.iterdir())] == [p.stat().st_size for p in sorted(photos.iterdir())]
    assert first.fingerprints != second.fingerprints
    assert np.array_equal(second.train.image(0), decode((other / "000.jpg").read_bytes(), 24))
    assert opened(photos, cache).fingerprints == first.fingerprints  # each finds its own again
    assert opened(other, cache).fingerprints == second.fingerprints
    assert len(stores(cache)) == 2


@pytest.mark.parametrize("way", ["written in place", "replaced"])
def test_a_picture_changed_at_equal_size_and_time_is_seen(photos: Path, cache: Path, tmp_path: Path, way: str) -> None:
    before = opened(photos, cache)
    other = twin(photos, tmp_path / "other", 50)
    victim, status = photos / "003.jpg", (photos / "003.jpg").stat()
    if way == "replaced":
        (other / "003.jpg").replace(victim)
    else:
        victim.write_bytes((other / "003.jpg").read_bytes())
        os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (victim.stat().st_size, victim.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    after = opened(photos, cache)
    assert after.fingerprints != before.fingerprints
    assert np.array_equal(after.train.image(3), decode(victim.read_bytes(), 24))


def test_other_bytes_behind_an_equal_listing_are_seen(
    photos: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another disk at the same place, say, whose files have the same inodes: some contents are compared."""
    before = opened(photos, cache)
    twin(photos, tmp_path / "other", 50)
    for path in (tmp_path / "other").iterdir():
        path.replace(photos / path.name)
    (record,) = cache.glob("*.source")
    record.write_text(json.dumps({**json.loads(record.read_text()), "listing": fingerprint(scan(str(photos)))}))
    capsys.readouterr()
    after = opened(photos, cache)
    assert after.fingerprints != before.fingerprints
    assert "files have other contents at the same sizes and times: packing again" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["touched", "copied", "moved"])
def test_the_same_bytes_are_compared_and_not_decoded_again(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    before = opened(photos, cache).fingerprints
    forbid_decoding(monkeypatch)
    place = photos.with_name("elsewhere")
    if way == "touched":
        place = photos
        (photos / "001.jpg").touch()
    elif way == "copied":
        shutil.copytree(photos, place)
    else:
        photos.rename(place)
    capsys.readouterr()
    assert opened(place, cache).fingerprints == before
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "compared byte by byte" in line]
    assert line.startswith(f"{place} holds the same 6 files that {cache}/")
    assert opened(place, cache).fingerprints == before
    assert "compared" not in capsys.readouterr().err  # from now on it is known


def test_the_source_is_an_absolute_path(photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    assert opened("photos", cache).source == str(photos)
    assert opened("./photos/../photos", cache).source == str(photos)


# --- what is left out ---------------------------------------------------------------------------------------


def test_every_start_says_what_is_in_the_store_and_what_not(
    photos: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "bad.jpg").write_bytes(b"no image")
    for _ in range(2):
        opened(photos, cache)
        said = capsys.readouterr().err
        assert f"6 images in the store, 1 left out (listed in {cache}/" in said
    assert "bad.jpg" in Path(said.split("listed in ")[1].split(")")[0]).read_text()


def test_what_could_not_be_read_is_tried_again(
    open_folder: Path, unprivileged: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_pictures(open_folder / "photos", 6)
    photos.chmod(0o777)
    (photos / "000.jpg").chmod(0)
    unprivileged()
    cache = open_folder / "cache"
    assert len(opened(photos, cache).train) == 5
    for _ in range(2):
        capsys.readouterr()
        assert len(opened(photos, cache).train) == 5
        said = capsys.readouterr().err
        assert "5 images in the store, 1 left out, 1 of them because they can't be read" in said
        assert "packed" not in said
    if os.getuid() == 0:
        os.seteuid(0)
    (photos / "000.jpg").chmod(0o644)
    assert len(opened(photos, cache).train) == 6


def test_a_passing_read_error_that_leaves_no_trace_is_tried_again(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = Item.read

    def fail(item: Item, most: int | None = None) -> bytes:
        if item.name == "002.jpg":
            raise OSError(errno.EIO, "Input/output error")
        return read(item, most)

    monkeypatch.setattr(Item, "read", fail)
    assert len(opened(photos, cache).train) == 5
    monkeypatch.undo()
    assert len(opened(photos, cache).train) == 6
    assert "1 files that couldn't be read can be read now: packing it again" in capsys.readouterr().err


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_shortage_of_the_machine_is_no_bad_image(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(_: Item, most: int | None = None) -> bytes:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Item, "read", fail)
    with pytest.raises(UserError, match=r"00\d.jpg can't be read: "):
        opened(photos, cache)
    assert stores(cache) == []


def test_a_store_that_cannot_be_read_is_not_packed_again(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(photos, cache)
    forbid_decoding(monkeypatch)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(np.lib.format, "open_memmap", fail)
    with pytest.raises(UserError, match="can't be read: not enough memory"):
        opened(photos, cache)
    monkeypatch.undo()
    assert len(opened(photos, cache).train) == 6


def test_a_tolerant_runs_store_does_not_serve_a_strict_one(photos: Path, cache: Path) -> None:
    for i in range(3):
        (photos / f"bad{i}.jpg").write_bytes(b"no image")
    assert len(opened(photos, cache, max_bad=0.5).train) == 6
    with pytest.raises(UserError, match=r"3 of 9 images are bad, too many \(--store.max_bad\): bad0.jpg"):
        opened(photos, cache, max_bad=0.0)


def test_a_split_without_a_readable_image_is_refused(tmp_path: Path, cache: Path) -> None:
    for c in "ab":
        write_pictures(tmp_path / "tree/train" / c, 4)
        (tmp_path / "tree/val" / c).mkdir(parents=True)
        (tmp_path / "tree/val" / c / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match="no readable image is left for val: all 2 are bad"):
        opened(tmp_path / "tree", cache)


# --- what is ours, and what is not --------------------------------------------------------------------------


def left_by(cache: Path, name: str, age_s: float, **mark: object) -> Path:
    """A half-made store; without a mark it is anybody's."""
    folder = cache / name
    (folder / "images").mkdir(parents=True)
    (folder / "images/pixels.npy").write_bytes(b"half")
    if mark:
        marker = folder / MARKER
        marker.write_text(json.dumps({"program": "moco", **mark}))
        os.utime(marker, (time.time() - age_s,) * 2)
    return folder


def test_only_what_is_provably_ours_is_removed(photos: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here, boot = socket.gethostname(), Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    day = 24 * 3600
    kept = [
        left_by(cache, "thesis.partial", 9 * day),
        left_by(cache, "thesis2.partial", 9 * day, host=here, boot=boot),  # a mark, but no name of the cache
        left_by(cache, f"{'a' * 20}.01234567.partial", 9 * day),  # a name, but no mark
        left_by(cache, f"{'b' * 20}.01234567.partial", 9 * day, host="another", boot=boot),
        left_by(cache, f"{'c' * 20}.01234567.partial", day - 60, host=here, boot="before"),
    ]
    gone = [
        left_by(cache, f"{'d' * 20}.01234567.partial", day + 60, host=here, boot="before"),
        left_by(cache, f"{'e' * 20}.01234567.partial", 0, host=here, boot=boot),  # its lock is free: killed
    ]
    opened(photos, cache)
    assert all((folder / "images/pixels.npy").exists() for folder in kept)
    assert not any(folder.exists() for folder in gone)
    assert f"left alone: {kept[3]}, begun by another 9 days ago" in capsys.readouterr().err


def test_a_foreign_folder_in_the_way_is_not_removed(photos: Path, cache: Path) -> None:
    opened(photos, cache)
    (store,) = stores(cache)
    shutil.rmtree(store)
    (store / "mine").mkdir(parents=True)
    with pytest.raises(UserError, match=f"can't remove {store}: moco did not make it; move it away"):
        opened(photos, cache)
    assert [path.name for path in store.iterdir()] == ["mine"]


def test_another_users_leftovers_are_a_line(
    open_folder: Path, unprivileged: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_pictures(open_folder / "photos", 3)
    cache = open_folder / "cache"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    folder = left_by(cache, f"{'e' * 20}.01234567.partial", 0, host=socket.gethostname(), boot=boot)
    cache.chmod(0o777)
    unprivileged()
    if os.geteuid() == 0:
        pytest.skip("needs another user")
    assert len(opened(photos, cache).train) == 3
    assert f"left alone: can't remove {folder}: Permission denied" in capsys.readouterr().err


def test_a_disk_without_locks_is_a_line(photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(UserError, match=r"can't write the cache .*No locks available \(give --store.cache DIR\)"):
        opened(photos, cache)


def test_a_moved_folder_with_a_cache_that_may_only_be_read(
    open_folder: Path, unprivileged: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    photos, cache = write_pictures(open_folder / "photos", 4), open_folder / "cache"
    packed = opened(photos, cache)
    photos = photos.rename(open_folder / "moved")
    cache.chmod(0o555)
    unprivileged()
    assert opened(photos, cache).fingerprints == packed.fingerprints
    if os.geteuid() != 0:
        assert "at every start: can't write" in capsys.readouterr().err


# --- damage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["pixels.npy", "offsets.npy", "manifest.json"])
@pytest.mark.parametrize("length", [0, 90])
def test_a_damaged_store_is_packed_again(
    labelled: Path, cache: Path, capsys: pytest.CaptureFixture[str], file: str, length: int
) -> None:
    before = opened(labelled, cache).fingerprints
    (store,) = stores(cache)
    path = store / "images" / file
    path.write_bytes(path.read_bytes()[:length])
    capsys.readouterr()
    assert opened(labelled, cache).fingerprints == before
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
    assert line.startswith(f"packed store {store / 'images'} is damaged (")
    assert line.endswith("): packing it again")
    opened(labelled, cache)
    assert "pack" not in capsys.readouterr().err


def test_pixels_that_somebody_changed_are_packed_again(
    photos: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = opened(photos, cache)
    (store,) = stores(cache)
    with (store / "images/pixels.npy").open("r+b") as file:
        file.seek(200)
        file.write(bytes(1000))
    after = opened(photos, cache)
    assert "is damaged (pixels.npy isn't what was written): packing it again" in capsys.readouterr().err
    assert after.fingerprints == before.fingerprints
    assert np.asarray(after.train.pixels[:2000]).any() and np.array_equal(after.train.image(0), decoded(photos, 0))


def test_pixels_that_were_only_touched_are_read_once(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(photos, cache)
    (store,) = stores(cache)
    read: list[str] = []

    def noted(path: Path, skip: int) -> str:
        read.append(path.name)
        return sha256_of(path, skip)

    monkeypatch.setattr("moco.data.intact.sha256_of", noted)
    opened(photos, cache)
    assert read == []
    os.utime(store / "images/pixels.npy", (1, 1))
    opened(photos, cache)
    opened(photos, cache)
    assert read == ["pixels.npy"]


def test_what_is_not_ours_in_a_damaged_store_is_set_aside(
    photos: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened(photos, cache)
    (store,) = stores(cache)
    for path in (store / "mine/keep.txt", store / "images/keep.txt"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    (store / "images/manifest.json").write_text("x")
    assert len(opened(photos, cache).train) == 6
    aside = store.with_name(f"{store.name}.aside-1")
    assert f"it is in {aside} now" in capsys.readouterr().err
    assert sorted(str(path.relative_to(aside)) for path in aside.rglob("keep.txt")) == [
        "images/keep.txt",
        "mine/keep.txt",
    ]
    assert not (aside / "images/pixels.npy").exists()


def test_shapes_beside_a_folder_of_that_name_is_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "shapes", 6)
    for ask in (lambda: opened("shapes", tmp_path / "cache"), lambda: list_images("shapes", StoreConfig(), 32)):
        with pytest.raises(UserError, match=r"give \./shapes for yours"):
            ask()
    assert len(opened("./shapes", tmp_path / "cache").train) == 6


def test_a_cache_needs_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOCO_CACHE")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    with pytest.raises(UserError, match=r"--store\.cache"):
        cache_folder(StoreConfig())


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
