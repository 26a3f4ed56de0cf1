"""The catalog's facts, and CIFAR-10's records as pictures."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moco.data import catalog
from moco.data.archive import MANIFEST
from moco.data.catalog import DATASETS, IMAGENETTE_CLASS_NAMES, KnownDataset, find, known
from moco.data.cifar import CLASSES, RECORD_BYTES, convert
from moco.errors import UserError
from moco.files import write_json


def torchvision_source() -> str:
    spec = importlib.util.find_spec("torchvision")  # found, not imported
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).parent / "datasets" / "imagenette.py").read_text()


@pytest.mark.parametrize("size", ["full", "320", "160"])
def test_imagenettes_addresses_and_md5_are_torchvisions(size: str) -> None:
    archive = known("imagenette").archive(size)
    assert f'("{archive.url}", "{archive.md5}")' in torchvision_source()


def test_imagenettes_classes_are_torchvisions() -> None:
    theirs = dict(re.findall(r'"(n\d{8})": \("([^"]+)"', torchvision_source()))
    assert dict(IMAGENETTE_CLASS_NAMES) == theirs
    assert len(theirs) == 10
    assert list(IMAGENETTE_CLASS_NAMES) == sorted(IMAGENETTE_CLASS_NAMES)


def test_every_entry_is_well_formed() -> None:
    assert set(DATASETS) == {"imagenette", "cifar10", "shapes"}
    for name, entry in DATASETS.items():
        assert entry.name == name
        for archive in entry.archives.values():
            assert archive.url.startswith("https://")
            assert re.fullmatch(r"[0-9a-f]{32}", archive.md5)
            assert re.fullmatch(r"[0-9a-f]{64}", archive.sha256)
            assert archive.size_bytes > 50_000_000
    archives = [archive for entry in DATASETS.values() for archive in entry.archives.values()]
    for distinct in ("url", "md5", "sha256", "folder", "filename"):
        assert len({getattr(archive, distinct) for archive in archives}) == len(archives)


def test_cifar10_is_the_version_without_pickles() -> None:
    archive = known("cifar10").archive(None)
    assert archive.filename == "cifar-10-binary.tar.gz"
    assert (archive.size_bytes, archive.md5) == (170_052_171, "c32a1d4ab5d03f1284b67883e8d87530")
    assert known("cifar10").cifar_binary


def test_sizes_and_names_that_are_not_there_are_answered() -> None:
    assert known("imagenette").archive(None) is known("imagenette").archive("full")
    with pytest.raises(UserError, match="no size '32': did you mean 320"):
        known("imagenette").archive("32")
    with pytest.raises(UserError, match="cifar10 comes in one size"):
        known("cifar10").archive("160")
    with pytest.raises(UserError, match="unknown data set 'imagnet': did you mean imagenette"):
        known("imagnet")
    with pytest.raises(UserError, match="valid: cifar10, imagenette, shapes"):
        known("zzz")


def test_the_catalog_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        DATASETS["mine"] = KnownDataset("mine", "", "")  # type: ignore[index]
    with pytest.raises(AttributeError):
        known("shapes").name = "mine"  # type: ignore[misc]


def test_find_takes_the_first_size_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `moco download imagenette` first"):
        find("imagenette", tmp_path)
    for size in ("160", "320"):
        archive = known("imagenette").archive(size)
        (tmp_path / archive.folder).mkdir()
        write_json(tmp_path / archive.folder / MANIFEST, {"sha256": archive.sha256, "files": 0})
        assert find("imagenette", tmp_path) == tmp_path / f"imagenette2-{size}"
    with pytest.raises(UserError, match="shapes is built in"):
        find("shapes", tmp_path)


def records(labels: list[int], seed: int) -> np.ndarray:
    made = np.random.default_rng(seed).integers(0, 256, (len(labels), RECORD_BYTES), dtype=np.uint8)
    made[:, 0] = labels
    return made


def test_cifar_records_become_pictures_bit_for_bit(tmp_path: Path) -> None:
    source = tmp_path / "bin"
    source.mkdir()
    made = {f"data_batch_{i}.bin": records([i, 0], seed=i) for i in range(1, 6)}
    made["test_batch.bin"] = records([9, 3, 3], seed=6)
    for name, array in made.items():
        array.tofile(source / name)
    convert(source, tmp_path / "png")
    files = sorted(path.relative_to(tmp_path / "png").as_posix() for path in tmp_path.rglob("*.png"))
    assert len(files) == 13
    assert "train/airplane/00001.png" in files and "train/frog/00008.png" not in files
    assert [name for name in files if name.startswith("val")] == [
        "val/cat/00001.png",
        "val/cat/00002.png",
        "val/truck/00000.png",
    ]
    assert sorted(path.name for path in (tmp_path / "png/val").iterdir()) == list(CLASSES)
    third = made["data_batch_2.bin"][0]  # number 2 of the split, label 2
    with Image.open(tmp_path / "png/train/bird/00002.png") as image:
        pixels = np.asarray(image)
    assert pixels.shape == (32, 32, 3)
    red, green, blue = (third[1 + 1024 * i : 1 + 1024 * (i + 1)].reshape(32, 32) for i in range(3))
    assert np.array_equal(pixels, np.stack([red, green, blue], axis=-1))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "data_batch_1.bin is missing"),
        (b"", "has 0 bytes"),
        (bytes(RECORD_BYTES + 1), f"not a multiple of {RECORD_BYTES}"),
        (b"\x0a" + bytes(RECORD_BYTES - 1), "has label 10, above 9"),
    ],
)
def test_wrong_cifar_files_are_refused(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    if content is not None:
        (tmp_path / "data_batch_1.bin").write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        convert(tmp_path, tmp_path / "png")


def test_the_catalog_does_not_import_torch() -> None:
    source = Path(catalog.__file__).read_text()
    assert "torch" not in re.findall(r"^(?:from|import) (\w+)", source, re.MULTILINE)
