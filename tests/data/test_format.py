"""Raw or JPEG: decided by what is there and by the disk, once, and with a line."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.conftest import picture, write_pictures

from moco.config import StoreConfig
from moco.data.dataset import Dataset, open_dataset
from moco.data.folder import scan
from moco.data.format import decide, raw_bytes
from moco.data.pixels import Pixels
from moco.data.store import Store
from moco.errors import Damaged, UserError

SIDE = 32


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "photos", 6)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def opened(spec: object, cache: Path, format: str, **config: Any) -> Dataset:
    return open_dataset(str(spec), StoreConfig(cache=str(cache), format=format, **config), SIDE)  # type: ignore[arg-type]


def stores(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.is_dir())


def short_of_disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr("moco.data.format.shutil.disk_usage", lambda path: SimpleNamespace(free=free))


# --- the decision -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "free", "format"), [(1, 100, "raw"), (50, 100, "raw"), (51, 100, "jpeg"), (1, 0, "jpeg")]
)
def test_more_than_half_of_the_free_disk_is_too_much(raw: int, free: int, format: str) -> None:
    found, why = decide(raw * 10**9, free * 10**9, "/cache")
    assert found == format
    assert (why == "") == (format == "raw")
    assert not why or why.startswith(f"store.format jpeg: about {raw}.0 GB of pixels, {free}.0 GB free in /cache")


def test_pixels_are_reckoned_from_the_sizes_of_some(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "photos", 10)  # 40 x 48
    (folder / "bad.jpg").write_bytes(b"no image")
    items = scan(str(folder))
    assert raw_bytes(items, 20) == 11 * 20 * 24 * 3
    assert raw_bytes(items, 500) == 11 * 40 * 48 * 3
    assert raw_bytes([item for item in items if item.name == "bad.jpg"], 20) == 0


def test_auto_is_raw_with_room_and_jpeg_without_and_keeps_to_it(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert opened(photos, cache, "auto").format == "raw"
    short_of_disk(monkeypatch, 1000)
    assert opened(photos, cache, "auto").format == "raw"  # it is there
    assert "store.format" not in capsys.readouterr().err
    (store,) = stores(cache)
    shutil.rmtree(store)
    first = opened(photos, cache, "auto")
    assert first.format == "jpeg" and "store.format jpeg" in capsys.readouterr().err
    monkeypatch.undo()
    again = opened(photos, cache, "auto")  # now there would be room
    assert again.format == "jpeg" and again.fingerprints == first.fingerprints


def test_both_formats_lie_beside_each_other_and_raw_comes_first(photos: Path, cache: Path) -> None:
    jpeg, raw = opened(photos, cache, "jpeg"), opened(photos, cache, "raw")
    assert (jpeg.format, raw.format) == ("jpeg", "raw")
    assert len(stores(cache)) == 2
    assert jpeg.fingerprints != raw.fingerprints
    assert opened(photos, cache, "auto").fingerprints == raw.fingerprints
    assert opened(photos, cache, "jpeg").fingerprints == jpeg.fingerprints


# --- a store of JPEGs ---------------------------------------------------------------------------------------


def pair(spec: object, cache: Path) -> tuple[Store, Store]:
    return opened(spec, cache, "raw").train, opened(spec, cache, "jpeg").train


def test_the_same_images_within_what_jpeg_changes(photos: Path, cache: Path) -> None:
    raw, jpeg = pair(photos, cache)
    assert jpeg.names == raw.names and np.array_equal(jpeg.labels, raw.labels)
    assert np.array_equal(jpeg.heights, raw.heights) and np.array_equal(jpeg.widths, raw.widths)
    assert jpeg.nbytes == raw.nbytes == raw.stored_bytes
    assert jpeg.stored_bytes < raw.stored_bytes
    for i in range(len(raw)):
        assert np.abs(jpeg.image(i).astype(int) - raw.image(i)).mean() < 6
        target = np.empty(raw.image(i).size, np.uint8)
        jpeg.read(i, target)
        assert np.array_equal(target, jpeg.image(i).reshape(-1))


def test_files_at_their_own_size_keep_their_pixels_to_the_bit(photos: Path, cache: Path) -> None:
    config = {"cache": str(cache)}
    raw = open_dataset(str(photos), StoreConfig(format="raw", **config), 500).train  # type: ignore[arg-type]
    jpeg = open_dataset(str(photos), StoreConfig(format="jpeg", **config), 500).train  # type: ignore[arg-type]
    assert all(np.array_equal(raw.image(i), jpeg.image(i)) for i in range(len(raw)))
    assert jpeg.stored_bytes == sum(path.stat().st_size for path in photos.iterdir())


def test_bad_images_are_left_out_of_jpegs_too(photos: Path, cache: Path) -> None:
    (photos / "002.jpg").write_bytes(b"no image")
    store = opened(photos, cache, "jpeg").train
    assert store.names == [f"{i:03}.jpg" for i in range(6) if i != 2]
    assert store.image(4).shape == (32, 38, 3)
    pixels = Pixels.open(stores(cache)[0] / "images")
    assert pixels.lengths[2] == 0 and pixels.skipped[0][0] == "002.jpg"


def test_on_a_device_they_are_pixels(labelled: Path, cache: Path) -> None:
    import torch

    store = opened(labelled, cache, "jpeg").train
    copy, offsets = store.on(torch.device("cpu"))
    for i, begin in enumerate(offsets.tolist()):
        image = store.image(i)
        assert np.array_equal(copy.numpy()[begin : begin + image.size], image.reshape(-1))


def test_a_split_has_the_same_fingerprint_wherever_it_lies(labelled: Path, cache: Path, tmp_path: Path) -> None:
    first = opened(labelled, cache, "jpeg")
    (store,) = stores(cache)
    shutil.rmtree(store / "splits")
    assert opened(labelled, cache, "jpeg").fingerprints == first.fingerprints
    copy = shutil.copytree(labelled, tmp_path / "copy")
    assert opened(copy, tmp_path / "other", "jpeg").fingerprints == first.fingerprints


def test_a_changed_byte_of_a_jpeg_is_an_error_that_names_the_image(photos: Path, cache: Path) -> None:
    store = opened(photos, cache, "jpeg").train
    file = stores(cache)[0] / "images/jpegs.npy"
    content = bytearray(file.read_bytes())
    begin = len(content) - len(store.pixels) + int(store.offsets[3])
    content[begin : begin + 50] = bytes(50)
    file.write_bytes(content)
    with pytest.raises(Damaged, match=r"the packed image '003.jpg' is damaged"):
        store.image(3)
    assert len(opened(photos, cache, "jpeg").train.image(3))  # the next start packs it again


@pytest.mark.parametrize("damage", ["jpegs.npy", "lengths.npy"])
def test_a_damaged_store_is_packed_again(
    photos: Path, cache: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = opened(photos, cache, "jpeg")
    (store,) = stores(cache)
    (store / "images" / damage).write_bytes((store / "images" / damage).read_bytes()[:-8])
    assert opened(photos, cache, "jpeg").fingerprints == first.fingerprints
    assert "is damaged" in capsys.readouterr().err


def test_a_picture_too_long_for_jpeg_is_a_bad_image_there_alone(tmp_path: Path, cache: Path) -> None:
    folder = write_pictures(tmp_path / "photos", 3)
    picture(1, 2, 66_000).save(folder / "long.png")
    assert len(opened(folder, cache, "raw").train) == 4
    assert len(opened(folder, cache, "jpeg").train) == 3


def test_shapes_too(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moco.data.shapes.SIZES", {"train": 40, "val": 10})
    raw, jpeg = pair("shapes", cache)
    assert jpeg.stored_bytes < raw.stored_bytes  # noise of every grain: far from a fifth
    assert np.abs(jpeg.image(7).astype(int) - raw.image(7)).mean() < 6


def test_a_wrong_name_is_told(photos: Path, cache: Path) -> None:
    from moco.config import Config
    from moco.config_check import check

    with pytest.raises(UserError, match=r"store.format is 'png'"):
        check(Config(store=StoreConfig(format="png")))  # type: ignore[arg-type]
