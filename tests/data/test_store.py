"""The store is plain numpy files, and one that isn't what was written is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from moco.data.pack import pack_arrays
from moco.data.store import FORMAT, Dataset, Store
from moco.errors import UserError

IMAGES = [
    (f"{i}.png", np.random.default_rng(i).integers(0, 256, (3 + i, 9 - i, 3), dtype=np.uint8), i % 2) for i in range(5)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pack_arrays(tmp_path / "store", iter(IMAGES), ["a", "b"])
    return tmp_path / "store"


def test_round_trip(folder: Path) -> None:
    store = Store.open(folder)
    assert len(store) == 5
    assert store.names == [name for name, _, _ in IMAGES]
    assert store.labels.tolist() == [label for _, _, label in IMAGES]
    assert store.classes == ["a", "b"]
    assert store.labelled
    for i, (_, pixels, _) in enumerate(IMAGES):
        assert np.array_equal(store.image(i), pixels)
    types = (store.pixels.dtype, store.offsets.dtype, store.heights.dtype, store.widths.dtype, store.labels.dtype)
    assert types == (np.uint8, np.int64, np.int32, np.int32, np.int64)


def test_any_program_that_reads_numpy_reads_it(folder: Path) -> None:
    pixels, offsets = np.load(folder / "pixels.npy"), np.load(folder / "offsets.npy")
    sizes = np.load(folder / "sizes.npy")
    for (_, expected, _), start, (height, width) in zip(IMAGES, offsets, sizes, strict=True):
        assert np.array_equal(pixels[start : start + height * width * 3].reshape(height, width, 3), expected)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == FORMAT
    assert set(manifest) == {
        "format",
        "bytes",
        "tables",
        "fingerprint",
        "classes",
        "names",
        "skipped",
        "ranges",
        "unended",
    }
    assert {path.name for path in folder.iterdir()} == {
        "pixels.npy", "offsets.npy", "sizes.npy", "labels.npy", "manifest.json",
    }  # fmt: skip


def test_writing_into_the_mapping_never_reaches_the_file(folder: Path) -> None:
    before = (folder / "pixels.npy").read_bytes()
    store = Store.open(folder)
    store.pixels[:] = 0
    del store
    assert (folder / "pixels.npy").read_bytes() == before


def test_fingerprint_is_of_pixels_and_labels(tmp_path: Path) -> None:
    def fingerprint(name: str, images: list[tuple[str, np.ndarray, int]]) -> str:
        pack_arrays(tmp_path / name, iter(images), ["a", "b"])
        return Store.open(tmp_path / name).fingerprint

    base = fingerprint("base", IMAGES)
    assert fingerprint("renamed", [(f"x/{name}", pixels, label) for name, pixels, label in IMAGES]) == base
    assert fingerprint("relabelled", [(name, pixels, 1 - label) for name, pixels, label in IMAGES]) != base
    assert fingerprint("turned", [(n, np.ascontiguousarray(p.swapaxes(0, 1)), c) for n, p, c in IMAGES]) != base
    assert fingerprint("fewer", IMAGES[:-1]) != base


def test_empty(tmp_path: Path) -> None:
    pack_arrays(tmp_path / "empty", iter([]), [])
    store = Store.open(tmp_path / "empty")
    assert len(store) == 0
    assert not store.labelled


def truncate(name: str, length: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


def swap(folder: Path) -> None:
    labels = np.load(folder / "labels.npy")
    np.save(folder / "labels.npy", 1 - labels)


def manifest_with(**values: object) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, **values}))

    return write


class Planted:
    ran = False

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return planted, ()


def planted() -> None:
    Planted.ran = True


DAMAGE: dict[str, Callable[[Path], object]] = {
    "pixels shorter": truncate("pixels.npy", 300),
    "pixels without a body": truncate("pixels.npy", 128),
    "pixels' header cut": truncate("pixels.npy", 50),
    "pixels empty": truncate("pixels.npy", 0),
    "pixels gone": lambda f: (f / "pixels.npy").unlink(),
    "pixels of another type": lambda f: np.save(f / "pixels.npy", np.zeros(10)),
    "pixels longer": lambda f: np.save(f / "pixels.npy", np.zeros(10_000, np.uint8)),
    "offsets cut": truncate("offsets.npy", 140),
    "offsets empty": truncate("offsets.npy", 0),
    "sizes garbage": lambda f: (f / "sizes.npy").write_bytes(b"PK\x03\x04 a zip, or so it says"),
    "sizes of another shape": lambda f: np.save(f / "sizes.npy", np.zeros(10, np.int32)),
    "labels swapped": swap,
    "labels pickled": lambda f: np.save(f / "labels.npy", np.array([Planted()], object), allow_pickle=True),
    "labels a pickle": lambda f: (f / "labels.npy").write_bytes(pickle.dumps(Planted())),
    "manifest garbage": lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe\0garbage"),
    "manifest cut": truncate("manifest.json", 40),
    "manifest empty": truncate("manifest.json", 0),
    "manifest gone": lambda f: (f / "manifest.json").unlink(),
    "manifest a list": lambda f: (f / "manifest.json").write_text("[]"),
    "manifest of names": manifest_with(names=None),
    "manifest of fewer names": manifest_with(names=["a"]),
    "manifest of another format": manifest_with(format=FORMAT + 1),
    "manifest of more bytes": manifest_with(bytes=10**9),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_found(folder: Path, damage: Callable[[Path], object]) -> None:
    damage(folder)
    with pytest.raises(UserError, match=f"packed store {folder} is damaged") as caught:
        Store.open(folder)
    assert "\n" not in str(caught.value)
    assert not Planted.ran


def test_dataset(folder: Path, tmp_path: Path) -> None:
    train = Store.open(folder)
    pack_arrays(tmp_path / "val", iter(IMAGES[:2]), ["a", "b"])
    val = Store.open(tmp_path / "val")
    assert Dataset(train, val, "").fingerprints == {"train": train.fingerprint, "val": val.fingerprint}
    assert Dataset(train, None, "").fingerprints == {"train": train.fingerprint}
    assert Dataset(train, val, "").classes == ["a", "b"]
