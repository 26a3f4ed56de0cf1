"""The store is plain numpy files, and one that isn't what was written is refused."""

from __future__ import annotations

import errno
import json
import pickle
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from moco.data import intact
from moco.data.pack import pack_arrays
from moco.data.pixels import CHECKED, FORMAT, Pixels
from moco.data.store import Store
from moco.errors import Damaged, UserError

IMAGES = [(f"{i}.png", np.random.default_rng(i).integers(0, 256, (3 + i, 9 - i, 3), dtype=np.uint8)) for i in range(5)]
LABELS = np.array([0, 1, 0, 1, 0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pack_arrays(tmp_path / "store/images", iter(IMAGES))
    return tmp_path / "store/images"


def whole(pixels: Pixels) -> Store:
    return pixels.split(np.arange(len(pixels)), LABELS[: len(pixels)], ["a", "b"])


def test_round_trip(folder: Path) -> None:
    store = whole(Pixels.open(folder))
    assert len(store) == 5
    assert store.names == [name for name, _ in IMAGES]
    assert store.labels.tolist() == [0, 1, 0, 1, 0]
    assert store.classes == ["a", "b"]
    assert store.labelled
    for i, (_, pixels) in enumerate(IMAGES):
        assert np.array_equal(store.image(i), pixels)
    types = (store.pixels.dtype, store.offsets.dtype, store.heights.dtype, store.widths.dtype, store.labels.dtype)
    assert types == (np.uint8, np.int64, np.int32, np.int32, np.int64)


def test_any_program_that_reads_numpy_reads_it(folder: Path) -> None:
    pixels, offsets = np.load(folder / "pixels.npy"), np.load(folder / "offsets.npy")
    sizes = np.load(folder / "sizes.npy")
    for (_, expected), start, (height, width) in zip(IMAGES, offsets, sizes, strict=True):
        assert np.array_equal(pixels[start : start + height * width * 3].reshape(height, width, 3), expected)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == FORMAT
    assert set(manifest) == {"format", "bytes", "digest", "tables", "names", "skipped", "unread", "ranges", "unended"}
    assert {path.name for path in folder.iterdir()} == {
        "pixels.npy", "offsets.npy", "sizes.npy", "contents.npy", "manifest.json", "checked.json",
    }  # fmt: skip
    chosen = Pixels.open(folder).split(np.array([4, 1]), np.array([1, 0]), ["a", "b"])
    (table,) = (folder.parent / "splits").glob("*.npy")
    assert np.load(table).tolist() == [[4, 1], [1, 0]]
    kept = json.loads(table.with_suffix(".json").read_text())
    assert kept == {"format": FORMAT, "classes": ["a", "b"], "fingerprint": chosen.fingerprint}


# --- a split is a store of its own for whoever uses it ------------------------------------------------------


def test_a_split_is_as_if_packed_alone(folder: Path, tmp_path: Path) -> None:
    pixels = Pixels.open(folder)
    for chosen in ([0, 1, 2], [3, 0], [1, 3, 4], [2]):
        pack_arrays(tmp_path / str(chosen) / "images", (IMAGES[i] for i in chosen))
        labels = LABELS[chosen]
        alone = Pixels.open(tmp_path / str(chosen) / "images").split(np.arange(len(chosen)), labels, ["a", "b"])
        among = pixels.split(np.array(chosen), labels, ["a", "b"])
        assert among.fingerprint == alone.fingerprint
        assert among.names == alone.names
        assert among.nbytes == alone.nbytes == alone.pixels.nbytes
        copy, offsets = among.on(torch.device("cpu"))
        assert np.array_equal(copy.numpy(), alone.pixels)
        assert np.array_equal(offsets, alone.offsets)


def test_a_kept_fingerprint_is_used_and_a_damaged_one_is_not(folder: Path) -> None:
    pixels = Pixels.open(folder)
    fingerprint = whole(pixels).fingerprint
    (table,) = (folder.parent / "splits").glob("*.json")
    table.write_text(json.dumps({"format": FORMAT, "classes": [], "fingerprint": "f" * 64}))
    assert whole(pixels).fingerprint == "f" * 64  # so the pixels weren't read
    for damage in ("", "[]", "{}", '{"format": 3, "fingerprint": 7}'):
        table.write_text(damage)
        assert whole(pixels).fingerprint == fingerprint


def test_fingerprint_is_of_pixels_and_labels(tmp_path: Path) -> None:
    def fingerprint(name: str, images: list[tuple[str, np.ndarray]], labels: np.ndarray = LABELS) -> str:
        pack_arrays(tmp_path / name / "images", iter(images))
        pixels = Pixels.open(tmp_path / name / "images")
        return pixels.split(np.arange(len(pixels)), labels[: len(pixels)], ["a", "b"]).fingerprint

    base = fingerprint("base", IMAGES)
    assert fingerprint("renamed", [(f"x/{name}", pixels) for name, pixels in IMAGES]) == base
    assert fingerprint("relabelled", IMAGES, 1 - LABELS) != base
    assert fingerprint("turned", [(n, np.ascontiguousarray(p.swapaxes(0, 1))) for n, p in IMAGES]) != base
    assert fingerprint("fewer", IMAGES[:-1]) != base


def test_empty(tmp_path: Path) -> None:
    pack_arrays(tmp_path / "empty/images", iter([]))
    store = Pixels.open(tmp_path / "empty/images").split(np.array([], np.int64), np.array([], np.int64), [])
    assert len(store) == store.nbytes == 0
    assert not store.labelled


# --- nothing writes, nothing is charged ---------------------------------------------------------------------


def test_nothing_can_write_into_the_pixels(folder: Path) -> None:
    before = (folder / "pixels.npy").read_bytes()
    store = whole(Pixels.open(folder))
    with pytest.raises(ValueError, match="read-only"):
        store.pixels[:] = 0
    code = "import sys; from pathlib import Path; from moco.data.pixels import Pixels; import numpy as np\n"
    code += "p = Pixels.open(Path(sys.argv[1])); s = p.split(np.arange(5), np.arange(5), []); s.tensor().zero_()"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=False, capture_output=True)
    assert done.returncode < 0  # the kernel ends it
    assert (folder / "pixels.npy").read_bytes() == before


def test_the_tensor_is_the_same_memory_and_comes_without_a_warning(folder: Path) -> None:
    store = whole(Pixels.open(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = store.tensor()
    assert tensor.data_ptr() == store.pixels.ctypes.data
    assert np.array_equal(tensor.numpy(), store.pixels)


@pytest.mark.timeout(60)
def test_a_store_larger_than_memory_opens(folder: Path) -> None:
    """Under a limit of writable memory, as Linux's overcommit rule sets one: 30 GB of holes, 8 GB at most."""
    size = 30 * 10**9
    with (folder / "pixels.npy").open("r+b") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (size,)})
        file.truncate(file.tell() + size)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "bytes": size}))
    intact.note(folder / CHECKED, {"pixels.npy": intact.state_of(folder / "pixels.npy")})  # half a minute to read
    code = "import sys; from pathlib import Path; from moco.data.pixels import Pixels; import numpy as np\n"
    code += "p = Pixels.open(Path(sys.argv[1])); s = p.split(np.arange(5), np.arange(5), [])\n"
    code += "print(s.tensor().numel(), s.image(4).sum())"
    data = 8 * 10**9
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], check=False, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (data, data)),
    )  # fmt: skip
    assert done.stdout.split() == [str(size), str(IMAGES[4][1].sum())], done.stderr


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE])
def test_a_shortage_is_not_damage(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, "so it is")

    monkeypatch.setattr(np.lib.format, "open_memmap", fail)
    with pytest.raises(UserError, match="can't be read: ") as caught:
        Pixels.open(folder)
    assert not isinstance(caught.value, Damaged)


# --- damage -------------------------------------------------------------------------------------------------


def truncate(name: str, length: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


def swap(folder: Path) -> None:
    sizes = np.load(folder / "sizes.npy")
    np.save(folder / "sizes.npy", sizes[:, ::-1])


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
    "sizes swapped": swap,
    "contents pickled": lambda f: np.save(f / "contents.npy", np.array([Planted()], object), allow_pickle=True),
    "contents a pickle": lambda f: (f / "contents.npy").write_bytes(pickle.dumps(Planted())),
    "manifest garbage": lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe\0garbage"),
    "manifest cut": truncate("manifest.json", 40),
    "manifest empty": truncate("manifest.json", 0),
    "manifest gone": lambda f: (f / "manifest.json").unlink(),
    "manifest a list": lambda f: (f / "manifest.json").write_text("[]"),
    "manifest of names": manifest_with(names=None),
    "manifest of fewer names": manifest_with(names=["a"]),
    "manifest of odd skips": manifest_with(skipped=[["a"]]),
    "manifest of another format": manifest_with(format=FORMAT + 1),
    "manifest of more bytes": manifest_with(bytes=10**9),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_found(folder: Path, damage: Callable[[Path], object]) -> None:
    damage(folder)
    with pytest.raises(Damaged, match=f"packed store {folder} is damaged") as caught:
        Pixels.open(folder)
    assert "\n" not in str(caught.value)
    assert not Planted.ran
