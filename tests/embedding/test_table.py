"""Feature files: the same blocks give the same bytes, every kind reads back, and what isn't ours is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from moco.embedding.table import ENDINGS, Block, companion, open_table, write_table
from moco.errors import UserError

ABOUT = {"format": 1, "step": 3, "left_out": [["a.jpg", "empty file"]]}
RNG = np.random.default_rng(0)
BLOCKS = [
    Block(["cat/ä.jpg", "cat/b.jpg"], ["cat", None], RNG.normal(size=(2, 5)).astype(np.float32)),
    Block([], [], np.empty((0, 5), np.float32)),  # nothing of it could be read
    Block(["long/" * 30 + "c.jpg"], ["dog"], RNG.normal(size=(1, 5)).astype(np.float32)),
]


def written(path: Path) -> Path:
    beside = companion(path)
    with path.open("wb") as first, (beside or path.with_suffix(".unused")).open("wb") as second:
        write_table([first, second], path.suffix, lambda: iter(BLOCKS), 3, 5, ABOUT)
    return path


@pytest.mark.parametrize("kind", ENDINGS)
def test_it_reads_back_and_has_the_same_bytes_each_time(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / f"a{kind}")
    assert path.read_bytes() == written(tmp_path / f"b{kind}").read_bytes()
    table = open_table(path)
    assert (table.about, table.count, table.width) == (ABOUT, 3, 5)
    rows = list(table.blocks())
    assert [name for block in rows for name in block.paths] == [name for block in BLOCKS for name in block.paths]
    assert [label for block in rows for label in block.labels] == ["cat", None, "dog"]
    features = np.concatenate([block.features for block in rows])
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, np.concatenate([block.features for block in BLOCKS]))


def test_other_programs_read_them(tmp_path: Path) -> None:
    table = pq.read_table(written(tmp_path / "a.parquet"))
    assert table.column_names == ["path", "label", "feature"] and table["label"].to_pylist() == ["cat", None, "dog"]
    assert str(table.schema.field("feature").type) == "fixed_size_list<element: float not null>[5]"
    with np.load(written(tmp_path / "a.npz")) as arrays:
        assert arrays["features"].shape == (3, 5) and arrays["paths"][0] == "cat/ä.jpg"
    assert np.load(written(tmp_path / "a.npy")).shape == (3, 5)


@pytest.mark.parametrize("kind", ENDINGS)
def test_what_is_not_ours_is_refused_in_a_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a{kind}"
    with pytest.raises(UserError, match=r"no index at .*moco embed"):
        open_table(path)
    whole = written(path).read_bytes()
    for content in (b"", b"text", pickle.dumps([1]), whole[: len(whole) // 3]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is no feature file that `moco embed` wrote"):
            open_table(path)
    with pytest.raises(UserError, match=r"give a name that ends in \.parquet"):
        open_table(tmp_path / "a.csv")


def test_somebody_elses_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=np.zeros((2, 3), np.float32))
    np.savez(tmp_path / "b.npz", about=np.array([{"format": 1}], object), allow_pickle=True)
    for name in "ab":
        with pytest.raises(UserError, match="is no feature file"):
            open_table(tmp_path / f"{name}.npz")


@pytest.mark.parametrize("kind", [".parquet", ".npz"])
def test_damage_among_the_rows_is_a_line(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / f"a{kind}")
    whole = path.read_bytes()
    met = 0
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            list(open_table(path).blocks())
        except UserError:
            met += 1
    assert met > 20
