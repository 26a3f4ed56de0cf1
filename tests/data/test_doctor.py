"""The doctor finds what was planted, and only that."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from tests.conftest import picture, write_pictures
from tests.data.conftest import tiff

from moco.data.diagnosis import Diagnosis
from moco.data.doctor import class_counts, examine
from moco.data.duplicates import MOST_DISTANT, groups, near_pairs
from moco.data.folder import scan
from moco.data.layout import arrange


def examined(root: Path, labels: str = "auto", distance: int = 4) -> Diagnosis:
    return examine(arrange(scan(str(root)), labels, 0.1), distance)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A clean split tree: two classes, 2 x 6 train and 2 x 3 validation pictures, all different."""
    for c, name in enumerate(("cat", "dog")):
        write_pictures(tmp_path / "data/train" / name, 6, 100 * c)
        write_pictures(tmp_path / "data/val" / name, 3, 100 * c + 50)
    return tmp_path / "data"


def copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


# --- the search ---------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, MOST_DISTANT), st.integers(0, 80))
def test_near_pairs_are_those_of_comparing_all(seed: int, distance: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 2**64, 6, dtype=np.uint64)
    hashes = centres[rng.integers(0, 6, count)]
    for _ in range(rng.integers(0, 10)):  # some bits flipped, few of them often
        hashes = hashes ^ (np.uint64(1) << rng.integers(0, 64, count, dtype=np.uint64))
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None])
    expected = np.argwhere(np.triu(apart <= distance, 1))
    assert np.array_equal(near_pairs(hashes, distance), expected)


def test_near_pairs_of_many_are_fast_and_found() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 20_000, dtype=np.uint64)
    hashes[12_345] = hashes[7] ^ np.uint64(0x8000_0400_0000_2001)
    assert near_pairs(hashes, 4).tolist() == [[7, 12_345]]
    assert near_pairs(hashes, 3).tolist() == []


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.data())
def test_groups_are_the_connected_ones(count: int, data: st.DataObject) -> None:
    node = st.integers(0, count - 1)
    pairs = np.array(data.draw(st.lists(st.tuples(node, node), max_size=30)), np.int64).reshape(-1, 2)
    reach = np.eye(count, dtype=bool)
    reach[pairs[:, 0], pairs[:, 1]] = reach[pairs[:, 1], pairs[:, 0]] = True
    for _ in range(6):
        reach = reach @ reach
    expected = {tuple(np.flatnonzero(row).tolist()) for row in reach}
    assert groups(pairs, count) == [list(g) for g in sorted(expected) if len(g) > 1]


# --- findings -----------------------------------------------------------------------------------------------


def test_a_clean_tree(tree: Path) -> None:
    found = examined(tree)
    assert found.images == {"train": 12, "val": 6}
    assert found.unreadable == []
    for sets in (found.exact_duplicates, found.near_duplicates, found.exact_leaks, found.near_leaks):
        assert sets == []
    assert found.label_conflicts == []
    assert found.classes == {"cat": {"train": 6, "val": 3}, "dog": {"train": 6, "val": 3}}
    assert (found.serious, found.imbalance) == ([], 1.0)


def test_unreadable(tree: Path) -> None:
    (tree / "train/cat/empty.jpg").touch()
    (tree / "val/dog/text.jpg").write_text("no image")
    (tree / "val/dog/dangling.jpg").symlink_to("nowhere")
    cut = (tree / "train/dog/000.jpg").read_bytes()[:-200]
    (tree / "train/dog/cut.jpg").write_bytes(cut)
    found = examined(tree)
    assert [(bad.name, bad.split) for bad in found.unreadable] == [
        ("train/cat/empty.jpg", "train"),
        ("train/dog/cut.jpg", "train"),
        ("val/dog/dangling.jpg", "val"),
        ("val/dog/text.jpg", "val"),
    ]
    assert [bad.reason.split(" (")[0] for bad in found.unreadable[2:]] == ["No such file or directory", "not an image"]
    assert found.serious == ["4 unreadable images"]
    assert found.images == {"train": 14, "val": 8}
    assert found.classes["dog"] == {"train": 6, "val": 3}


def test_exact_copies(tree: Path) -> None:
    copy(tree / "train/cat/000.jpg", tree / "train/cat/again.jpg")
    copy(tree / "train/cat/001.jpg", tree / "train/dog/wrong.jpg")
    copy(tree / "train/dog/002.jpg", tree / "val/dog/leak.jpg")
    copy(tree / "train/dog/002.jpg", tree / "val/dog/leak2.jpg")
    found = examined(tree)
    conflict = ["train/cat/001.jpg", "train/dog/wrong.jpg"]
    leak = ["train/dog/002.jpg", "val/dog/leak.jpg", "val/dog/leak2.jpg"]
    assert found.exact_duplicates == [["train/cat/000.jpg", "train/cat/again.jpg"], conflict, leak]
    assert found.label_conflicts == [conflict]
    assert found.exact_leaks == [leak]
    assert found.near_duplicates == []  # the same file is not named twice
    assert found.serious == ["1 picture in both train and val"]


def test_nearly_the_same(tree: Path) -> None:
    original = Image.open(tree / "train/cat/003.jpg")
    original.save(tree / "train/cat/recompressed.jpg", quality=40)
    original.resize((120, 100), Image.Resampling.BICUBIC).save(tree / "val/cat/enlarged.png")
    ImageEnhance.Brightness(Image.open(tree / "val/dog/000.jpg")).enhance(1.1).save(tree / "val/dog/lighter.jpg")
    copy(tree / "train/cat/003.jpg", tree / "train/cat/same.jpg")
    found = examined(tree)
    cats = ["train/cat/003.jpg", "train/cat/recompressed.jpg", "train/cat/same.jpg", "val/cat/enlarged.png"]
    assert found.near_duplicates == [cats, ["val/dog/000.jpg", "val/dog/lighter.jpg"]]
    assert found.near_leaks == [cats]
    assert found.exact_duplicates == [["train/cat/003.jpg", "train/cat/same.jpg"]]
    assert found.serious == []  # to be looked at, not proven


def test_blank_pictures_are_one_group(tmp_path: Path) -> None:
    for i in range(40):
        Image.new("RGB", (30 + i, 30), (200, 210, 220)).save(tmp_path / f"{i:02}.png")
    write_pictures(tmp_path, 3)
    found = examined(tmp_path)
    assert len(found.near_duplicates) == 1
    assert len(found.near_duplicates[0]) == 40


def test_sizes_and_kinds(tmp_path: Path) -> None:
    for i, size in enumerate([(100, 50), (60, 60), (40, 80), (30, 31), (500, 40)]):
        picture(i, size[1], size[0]).save(tmp_path / f"{i}.png")
    picture(9).convert("L").save(tmp_path / "grey.jpg")
    sizes = examined(tmp_path).sizes
    assert (sizes["width"]["min"], sizes["width"]["max"]) == (30, 500)
    assert (sizes["short_side"]["min"], sizes["short_side"]["max"]) == (30, 60)
    assert sizes["short_side"]["median"] == 40
    assert sizes["aspect"]["max"] == 12.5
    assert sizes["smallest"] == "3.png"
    assert sizes["kinds"] == {"PNG RGB": 5, "JPEG L": 1}


def test_bit_depths_and_used_ranges(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2)
    for i in range(3):
        levels = np.asarray(picture(20 + i, 40, 40).convert("L"))
        Image.fromarray((levels * 16.0).astype(np.uint16)).save(tmp_path / f"deep{i}.png")
    numbers = (levels / 255).astype(np.float64)
    numbers[:4] = -9999
    (tmp_path / "height.tif").write_bytes(tiff(numbers))
    (tmp_path / "bands.tif").write_bytes(tiff(np.zeros((13, 8, 9), np.float32), planarconfig="separate"))
    found = examined(tmp_path)
    assert set(found.depths) == {"uint16 grey", "float grey"}
    grey = found.depths["uint16 grey"]
    assert (grey.images, grey.packed, grey.full) == (3, (0, 4095), (0, 65535))
    assert grey.share == pytest.approx(1 / 16, rel=1e-3)
    assert (found.depths["float grey"].no_data, found.depths["float grey"].packed) == ((-9999,), (0, 1))
    assert found.sizes["kinds"] == {"PNG uint16": 3, "JPEG RGB": 2, "TIFF float64": 1}
    assert [u.reason for u in found.unreadable] == ["13 bands of float32: grey and RGB are read, with or without alpha"]
    assert found.near_duplicates == []


def test_jpegs_without_an_end_marker(tree: Path) -> None:
    path = tree / "train/cat/000.jpg"
    path.write_bytes(path.read_bytes()[:-2])
    found = examined(tree)
    assert (found.unended, found.unreadable, found.serious) == (["train/cat/000.jpg"], [], [])


def test_nothing_readable(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    found = examined(tmp_path)
    assert (found.sizes, found.classes, found.imbalance) == ({}, {}, None)
    assert found.serious == ["1 unreadable image"]


def test_json_form(tree: Path) -> None:
    write_pictures(tree / "train/dog", 12, 300)
    (tree / "train/dog/undecodable-\udcff.jpg").touch()
    found = json.loads(json.dumps(examined(tree).as_dict()))
    assert found["format"] == 1
    assert found["imbalance"] == 2.0
    assert found["serious"] == ["1 unreadable image"]
    assert found["unreadable"] == [
        {"name": "train/dog/undecodable-\udcff.jpg", "split": "train", "reason": "empty file"}
    ]


def test_classes_are_counted_in_one_pass() -> None:
    """A generator can be gone through once only, however many classes there are."""
    classes = [f"{n:05}" for n in range(21_000)]
    seen = ((n % 21_000, "train" if n % 3 else "val") for n in range(63_000))
    counts = class_counts(classes, seen)
    assert len(counts) == 21_000
    assert sum(by_split["train"] for by_split in counts.values()) == 42_000
    assert counts["00000"] == {"train": 0, "val": 3}
