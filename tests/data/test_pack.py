"""Packing: bad images are counted, named once and skipped; nothing half-made stays; any number of threads."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import picture, write_pictures
from tests.data.conftest import tiff

from moco.config import StoreConfig
from moco.data.dataset import open_dataset
from moco.data.folder import scan
from moco.data.images import FORMATS, decode
from moco.data.pack import pack_items
from moco.data.parallel import in_order
from moco.data.pixels import CHECKED, Pixels
from moco.data.store import Store
from moco.errors import UserError


def pack(source: Path, store: Path, short_side: int = 24, max_bad: float = 0.01) -> Pixels:
    pack_items(store, scan(str(source)), short_side, max_bad)
    return Pixels.open(store)


def image(pixels: Pixels, number: int) -> np.ndarray:
    return pixels.split(np.array([number]), np.array([-1]), []).image(0)


def spoil(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"no image")


def open_at(source: Path, cache: Path, max_bad: float = 0.01) -> Store:
    return open_dataset(str(source), StoreConfig(cache=str(cache), max_bad=max_bad), 24).train


# --- what is packed -----------------------------------------------------------------------------------------


def test_pixels_are_the_decoded_ones(flat: Path, tmp_path: Path) -> None:
    pixels = pack(flat, tmp_path / "store/images")
    items = scan(str(flat))
    assert pixels.names == [item.name for item in items]
    assert pixels.there.all()
    for i, item in enumerate(items):
        assert np.array_equal(image(pixels, i), decode(item.read(), 24))


@pytest.mark.parametrize("cores", [1, 2, 7])
def test_same_bytes_for_any_number_of_threads(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    pack(flat, tmp_path / "base")
    monkeypatch.setattr("moco.data.parallel.cores", lambda: cores)
    pack(flat, tmp_path / "other")
    for path in (tmp_path / "base").iterdir():
        if path.name != CHECKED:
            assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes(), path.name


@pytest.mark.timeout(30)
def test_results_come_in_order_and_not_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("moco.data.parallel.cores", lambda: asked.append(1) or 2)
    lock, started = threading.Lock(), 0

    def work(n: int) -> int:
        nonlocal started
        with lock:
            started += 1
        return n * n

    with closing(in_order(work, iter(range(1000)))) as results:
        assert next(results) == 0
        assert started <= 2 * 16
        assert [next(results) for _ in range(10)] == [n * n for n in range(1, 11)]
    assert started <= 2 * 16 + 11  # closing drops the rest
    assert len(asked) == 1  # in a container the answer is read from a dozen files
    assert list(in_order(work, range(100))) == [n * n for n in range(100)]


# --- bad images ---------------------------------------------------------------------------------------------


def test_bad_images_are_counted_named_once_and_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_pictures(tmp_path / "photos", 8)
    spoil(source, "002.jpg", "with\nnewline.jpg", "undecodable-\udcff.jpg")
    (source / "empty.jpg").touch()
    (source / "dangling.jpg").symlink_to("nowhere")
    (source / "loop.jpg").symlink_to("loop.jpg")
    pixels = pack(source, tmp_path / "store")
    there = [name for name, there in zip(pixels.names, pixels.there, strict=True) if there]
    assert there == [f"{i:03}.jpg" for i in range(8) if i != 2]
    error = capsys.readouterr().err
    (line,) = [line for line in error.splitlines() if "bad images" in line]
    assert line.startswith("skipped 6 bad images: 002.jpg (not an image")
    for name in (
        "dangling.jpg (No such file",
        "empty.jpg (empty file)",
        "loop.jpg (Too many",
        "with\\nnewline.jpg",
        "\\udcff",
    ):
        assert line.count(name) == 1
    skipped = json.loads((tmp_path / "store/manifest.json").read_text())["skipped"]
    assert [name for name, _ in skipped] == [item.name for item in scan(str(source)) if item.name not in there]
    assert [pixels.names[n] for n in pixels.unread] == [
        "dangling.jpg",
        "loop.jpg",
    ]  # the others were read: bad they are
    assert "2 of them couldn't be read" in error


def test_many_bad_images_are_shortened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_pictures(tmp_path / "photos", 5)
    spoil(source, *(f"bad-{i:02}.jpg" for i in range(15)))
    assert pack(source, tmp_path / "store", max_bad=0.9).there.sum() == 5
    assert f"bad-09.jpg (not an image ({', '.join(FORMATS)})), and 5 more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("good", "bad", "max_bad", "stops"),
    [
        (20, 1, 0.01, False),  # a handful never stops a small folder
        (20, 10, 0.01, False),
        (20, 11, 0.01, True),
        (20, 11, 0.5, False),
        (20, 1, 0.0, True),  # none is none
        (1, 1, 0.01, False),
        (0, 1, 0.01, True),  # nothing is left
        (0, 3, 0.99, True),
    ],
)
def test_too_many_bad_images_stop(tmp_path: Path, good: int, bad: int, max_bad: float, stops: bool) -> None:
    source = write_pictures(tmp_path / "photos", good)
    spoil(source, *(f"bad{i}.jpg" for i in range(bad)))
    if not stops:
        assert len(open_at(source, tmp_path / "cache", max_bad)) == good
        return
    with pytest.raises(UserError, match=r"are bad, too many \(--store.max_bad\): bad0.jpg \(not an image"):
        open_at(source, tmp_path / "cache", max_bad)
    assert leftovers(tmp_path / "cache") == []


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.suffix != ".lock"]


def test_one_huge_file_does_not_abort_packing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_pictures(tmp_path / "photos", 3)
    (source / "movie.gif").touch()
    os.truncate(source / "movie.gif", 2**40)
    assert pack(source, tmp_path / "store").there.sum() == 3
    assert "skipped 1 bad images: movie.gif (1,024.0 GiB, more than any picture" in capsys.readouterr().err


# --- more than 8 bits -----------------------------------------------------------------------------------------

GREY = np.asarray(picture(7, 30, 40).convert("L"))


def manifest(store: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((store / "manifest.json").read_text())
    return found


def test_a_range_is_found_said_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_pictures(tmp_path / "photos", 2)
    twelve = (GREY * (4095 / 255)).round()
    Image.fromarray(twelve.astype(np.uint16)).save(source / "a.png")
    (source / "b.tif").write_bytes(tiff(twelve.astype(np.int32)))
    missing = (GREY / 255).astype(np.float32)
    missing[:5] = -9999
    (source / "c.tif").write_bytes(tiff(missing))
    store = pack(source, tmp_path / "store", short_side=30)
    pixels = {name: image(store, i)[..., 0] for i, name in enumerate(store.names)}
    assert np.array_equal(pixels["a.png"], GREY)
    assert np.array_equal(pixels["b.tif"], GREY)
    assert (pixels["c.tif"][:5] == 0).all()
    assert np.array_equal(pixels["c.tif"][5:], GREY[5:])
    said = capsys.readouterr().err
    assert "more than 8 bits: 1 uint16 grey image, 0..4095 became 0..255 (1 looked at hold" in said
    assert "more than 8 bits: 1 float grey image, 0..1 became 0..255 (1 looked at hold" in said
    assert "no data: -9999" in said
    ranges = manifest(tmp_path / "store")["ranges"]
    assert list(ranges) == ["float grey", "int32 grey", "uint16 grey"]
    assert (ranges["int32 grey"]["images"], ranges["int32 grey"]["low"], ranges["int32 grey"]["high"]) == (1, 0, 4095)
    assert ranges["float grey"]["no_data"] == [-9999]


def test_one_rule_for_a_series_and_for_both_splits(tmp_path: Path) -> None:
    """A slice with a negative pixel, its neighbour without, and one of another split."""
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / "ct" / split / name).mkdir(parents=True)
    value = np.linspace(0, 1, 900).reshape(30, 30)
    for path, low, high in (("train/a/0", -921, 960), ("train/b/1", 156, 3921), ("val/a/2", 500, 1500)):
        (tmp_path / "ct" / f"{path}.tif").write_bytes(tiff((low + (high - low) * value).astype(np.int16)))
    (tmp_path / "ct/val/b/3.tif").write_bytes(tiff(np.full((30, 30), 1500, np.int16)))
    data = open_dataset(str(tmp_path / "ct"), StoreConfig(cache=str(tmp_path / "cache")), 30)
    assert data.val is not None
    for image, highest in ((data.train.image(0), 960), (data.val.image(0), 1500), (data.val.image(1), 1500)):
        assert image.max() == round((highest + 921) * 255 / (3921 + 921))


@pytest.mark.parametrize(("how", "most"), [("full", 16), ("0,8190", 128), ("auto", 255)])
def test_a_range_that_was_asked_for(tmp_path: Path, how: str, most: int) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    Image.fromarray(np.linspace(0, 4095, 900).reshape(30, 30).astype(np.uint16)).save(source / "a.png")
    cache = str(tmp_path / "cache")
    first = open_dataset(str(source), StoreConfig(cache=cache), 30)
    again = open_dataset(str(source), StoreConfig(cache=cache, range=how), 30)
    assert again.train.image(0).max() == most
    assert (again.fingerprints == first.fingerprints) == (how == "auto")  # another range is another store


@pytest.mark.parametrize("cores", [1, 5])
def test_ranges_for_any_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    for i in range(12):
        (source / f"{i:02}.tif").write_bytes(tiff(np.full((9, 9), 100 * i, np.int16) + np.arange(9, dtype=np.int16)))
    monkeypatch.setattr("moco.data.parallel.cores", lambda: cores)
    pack(source, tmp_path / "store")
    found = manifest(tmp_path / "store")["ranges"]["int16 grey"]
    assert (found["low"], found["high"], found["sampled"]) == (0, 1108, 12)


def test_jpegs_without_an_end_marker_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_pictures(tmp_path / "photos", 3)
    whole = (source / "001.jpg").read_bytes()
    (source / "001.jpg").write_bytes(whole[:-2])
    (source / "002.jpg").write_bytes(whole[:-40])
    assert pack(source, tmp_path / "store").there.sum() == 2
    said = capsys.readouterr().err
    assert "1 JPEG without an end marker, pixels whole: 001.jpg" in said
    assert "skipped 1 bad images: 002.jpg (image file is truncated)" in said
    assert manifest(tmp_path / "store")["unended"] == ["001.jpg"]


# --- disks --------------------------------------------------------------------------------------------------

PACK = """
import sys
from moco.cli import dispatch
from moco.config import StoreConfig
from moco.data.dataset import open_dataset
from moco.errors import UserError
try:
    open_dataset(sys.argv[1], StoreConfig(cache=sys.argv[2], format="raw"), 400)
except UserError as error:
    sys.exit(f"refused: {error}")
"""


def pack_in_a_process(
    source: Path, cache: Path, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PACK, str(source), str(cache)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, preexec_fn=before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where mounting one is allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"can't mount a tmpfs here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_full_disk(small_disk: Path, flat: Path) -> None:
    done = pack_in_a_process(flat, small_disk)
    assert done.returncode == 1
    assert "refused: can't pack into" in done.stderr
    assert "No space left on device" in done.stderr
    assert "--store.cache DIR" in done.stderr
    assert leftovers(small_disk) == []


@pytest.mark.parametrize("limit", [0, 1, 2000, 100_000, 138_300])
def test_file_size_limit_anywhere_in_the_store(flat: Path, tmp_path: Path, limit: int) -> None:
    """From the first byte to the last block of the pixels, which are 138,368 bytes."""

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    cache = tmp_path / "cache"
    done = pack_in_a_process(flat, cache, lower)
    assert done.returncode == 1, done.stderr
    assert "refused: can't pack into" in done.stderr
    assert "Traceback" not in done.stderr
    assert leftovers(cache) == []
    assert len(open_at(flat, cache)) == 24  # and it packs once there is room


def test_read_only_cache(flat: Path, open_folder: Path, unprivileged: Callable[[], None]) -> None:
    source = write_pictures(open_folder / "photos", 4)
    cache = open_folder / "cache"
    packed = open_at(source, cache)
    source.chmod(0o777)
    cache.chmod(0o555)
    unprivileged()
    assert open_at(source, cache).fingerprint == packed.fingerprint  # reading needs no lock
    (source / "000.jpg").unlink()
    with pytest.raises(UserError, match=r"can't write the cache .*Permission denied \(give --store.cache DIR\)"):
        open_at(source, cache)
    with pytest.raises(UserError, match="can't write the cache"):
        open_at(source, cache / "below")


def test_cache_that_is_a_file(flat: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't write the cache"):
        open_at(flat, tmp_path / "file")
    with pytest.raises(UserError, match="can't write the cache"):
        open_at(flat, tmp_path / "file" / "below")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
