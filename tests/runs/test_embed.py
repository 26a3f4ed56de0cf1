"""`moco.embed`: the monitors' features, of any place, to the same bytes however it was made, and after any kill."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import picture, write_pictures
from tests.data.conftest import write_tar
from tests.kills import worker

import moco
from moco.data.dataset import open_dataset
from moco.embedding.table import Table, open_table
from moco.errors import Interrupted
from moco.runs import embed as embedding
from moco.runs.splits import open_splits
from moco.runs.trained import pixel_source

TINY = {
    "model.backbone": "timm/test_resnet", "model.queue_size": 32, "model.dim": 16, "views.size": 32,
    "train.batch_size": 8, "train.epochs": 1, "schedule.warmup_epochs": 0, "runtime.precision": "float32",
    "checkpoint.keep_every_epochs": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> moco.Run:
    config = moco.recipe("folder-cpu", data=str(labelled), **TINY)
    return moco.pretrain(config, tmp_path_factory.mktemp("embed") / "run")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(embedding, "PART", 10)
    yield


def rows(table: Table) -> tuple[list[str], list[str | None], np.ndarray]:
    blocks = list(table.blocks())
    paths, labels = [p for b in blocks for p in b.paths], [label for b in blocks for label in b.labels]
    return paths, labels, np.concatenate([block.features for block in blocks])


@pytest.mark.parametrize("packed", [True, False])
def test_the_features_are_those_that_the_monitors_see(
    run: moco.Run, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    data = open_dataset(str(labelled), run.config.store, run.config.short_side)
    frozen = open_splits(run, "last", None).frozen
    assert data.val is not None
    seen = {}
    for store in (data.train, data.val):
        features = frozen.features(pixel_source(store, torch.device("cpu"))).values[0].numpy()
        seen |= dict(zip(store.names, features))
    if not packed:
        monkeypatch.setenv("MOCO_CACHE", str(tmp_path / "nothing"))
    else:
        monkeypatch.setattr("moco.data.listing.load", lambda *_: pytest.fail("a file was decoded again"))
    made = moco.embed(run, labelled, tmp_path / "f.parquet")
    paths, labels, features = rows(open_table(made.path))
    assert (made.images, made.left_out, paths) == (34, [], sorted(seen))
    assert labels == [path.split("/")[1] for path in paths]
    # to rounding: so small a network's convolutions differ in the last bit with the number of images at once
    np.testing.assert_allclose(features, np.stack([seen[path] for path in paths]), atol=2e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["f.parquet"] and not (tmp_path / "nothing").exists()


def test_the_same_bytes_for_any_number_of_threads_and_any_layout(run: moco.Run, labelled: Path, tmp_path: Path) -> None:
    files = {str(p.relative_to(labelled)): p.read_bytes() for p in labelled.rglob("*.jpg")}
    write_tar(tmp_path / "all.tar", files)
    texts = []
    for threads, data in ((1, labelled), (2, labelled), (2, tmp_path / "all.tar")):
        copy = tmp_path / f"run-{threads}-{data.name}"
        shutil.copytree(run.path, copy)
        config = (copy / "config.yaml").read_text()
        assert "threads: null" in config
        (copy / "config.yaml").write_text(config.replace("threads: null", f"threads: {threads}"))
        texts.append(rows(open_table(moco.embed(copy, data, tmp_path / f"{copy.name}.npz").path)))
    for paths, labels, features in texts[1:]:
        assert (paths, labels) == texts[0][:2]
        np.testing.assert_array_equal(features, texts[0][2])
    assert (tmp_path / "run-1-labelled0.npz").read_bytes() == (tmp_path / "run-2-labelled0.npz").read_bytes()


def test_a_folder_without_labels_and_with_what_cannot_be_read(run: moco.Run, flat: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(flat, photos)
    (photos / "005.jpg").write_bytes(b"no picture")
    (photos / "020.jpg").write_bytes(b"")
    lines: list[str] = []

    class Notes(moco.Silent):
        def say(self, text: str) -> None:
            lines.append(text)

    with moco.listening(Notes()):
        made = moco.embed(run, photos, tmp_path / "f.npy", normalize=True, encoder="key", batch_size=7)
    assert made.images == 22
    assert [name for name, _ in made.left_out] == ["005.jpg", "020.jpg"]
    assert made.left_out[1][1] == "empty file"
    assert any("left out 2" in line and "005.jpg" in line for line in lines)
    paths, labels, features = rows(open_table(made.path))
    assert labels == [None] * 22 and "005.jpg" not in paths
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
    assert np.load(tmp_path / "f.npy").shape == (22, made.width)
    query = moco.embed(run, photos, tmp_path / "g.npy", normalize=True)
    assert not np.allclose(rows(open_table(query.path))[2], features)


def test_nothing_readable_is_a_line(run: moco.Run, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"x")
    with pytest.raises(moco.UserError, match=r"none of the 1 images can be read: a\.jpg"):
        moco.embed(run, tmp_path / "photos", tmp_path / "f.npz")
    assert not (tmp_path / "f.npz").exists()


def test_a_stop_goes_on_where_it_was(
    run: moco.Run, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = moco.embed(run, flat, tmp_path / "whole.npz").path
    pieces = []
    original = embedding.Parts.write

    def stop_after_one(parts: embedding.Parts, number: int, part: embedding.Part) -> None:
        original(parts, number, part)
        pieces.append(number)
        if len(pieces) == 1:
            os.kill(os.getpid(), 15)

    monkeypatch.setattr(embedding.Parts, "write", stop_after_one)
    out = tmp_path / "f.npz"
    with pytest.raises(Interrupted, match=r"SIGTERM: finished parts are kept in .*f\.npz\.parts"):
        moco.embed(run, flat, out)
    assert not out.exists() and pieces == [0]
    made = moco.embed(run, flat, out)
    assert pieces == [0, 1, 2] and made.resumed == 10
    assert out.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "f.npz.parts").exists()


def test_other_images_or_another_run_are_not_mixed_in(
    run: moco.Run, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = write_pictures(tmp_path / "photos", 24), tmp_path / "f.npz"

    def begin() -> None:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(embedding, "_merge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            moco.embed(run, photos, out)

    begin()
    kept = sorted((tmp_path / "f.npz.parts").iterdir())
    with pytest.raises(moco.UserError, match="of another normalized: remove that folder"):
        moco.embed(run, photos, out, normalize=True)
    picture(99).save(photos / "003.jpg")
    with pytest.raises(moco.UserError, match="of another data: remove that folder"):
        moco.embed(run, photos, out)
    other = moco.pretrain(moco.recipe("folder-cpu", data=str(labelled), seed=1, **TINY), tmp_path / "other")
    with pytest.raises(moco.UserError, match="of another run, backbone_sha256, data"):
        moco.embed(other, photos, out)
    assert sorted((tmp_path / "f.npz.parts").iterdir()) == kept and not out.exists()


def test_nothing_of_others_is_replaced_or_removed(run: moco.Run, flat: Path, tmp_path: Path) -> None:
    mine = tmp_path / "f.npz"
    mine.write_bytes(b"mine")
    with pytest.raises(moco.UserError, match="is there already: remove it, or give another"):
        moco.embed(run, flat, mine)
    (tmp_path / "g.npy.json").write_text("mine")
    with pytest.raises(moco.UserError, match=r"g\.npy\.json is there already"):
        moco.embed(run, flat, tmp_path / "g.npy")
    (tmp_path / "h.npz.parts").mkdir()
    (tmp_path / "h.npz.parts/mine.txt").write_text("mine")
    with pytest.raises(moco.UserError, match="not the begun work of"):
        moco.embed(run, flat, tmp_path / "h.npz")
    assert mine.read_bytes() == b"mine" and (tmp_path / "h.npz.parts/mine.txt").read_text() == "mine"


def test_a_damaged_part_is_made_again(
    run: moco.Run, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = moco.embed(run, flat, tmp_path / "whole.npz").path, tmp_path / "f.npz"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(embedding, "_merge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        moco.embed(run, flat, out)
    part = tmp_path / "f.npz.parts/000001.npz"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    assert moco.embed(run, flat, out).resumed == 14
    assert out.read_bytes() == whole.read_bytes()


KILLS = min(int(os.environ.get("MOCO_SOAK", "3")), 30)
SETUP = """
import moco
from moco.runs import embed
embed.PART = 10
call = {call!r}
moco.embed(*call[:2], call[2] + ".first" + call[3])
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", [".parquet", ".npy"])
def test_kill_9_and_the_same_bytes(run: moco.Run, tmp_path: Path, kind: str) -> None:
    photos, out = write_pictures(tmp_path / "photos", 120), tmp_path / f"f{kind}"
    call = (str(run.path), str(photos), str(tmp_path / "f"), kind)
    moments, kills = random.Random(KILLS), 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # of torch's own threads: a fork has none of them
    work = "moco.embed(*call[:2], call[2] + call[3])"
    with worker(SETUP.format(call=call), work, environment) as embedding_worker:
        took = embedding_worker.attempt(60.0) or 0.0
        whole = {path.name: path.read_bytes() for path in tmp_path.glob(f"f{kind}*")}
        for _ in range(20 * KILLS):
            for path in tmp_path.glob(f"f{kind}*"):
                if path.is_file():
                    path.unlink()
            while embedding_worker.attempt(moments.uniform(0.2, 0.9) * took) is None:
                kills += 1
                assert kills < 60
                if out.is_file() and not Path(f"{out}.parts").exists():
                    break  # it was done, and killed on its way out
            assert {path.name: path.read_bytes() for path in tmp_path.glob(f"f{kind}*")} == whole
            if kills >= KILLS:
                break
    assert kills >= KILLS and out.is_file()


CODE = """
import resource, sys, moco
from moco.runs import embed
with moco.listening(moco.Silent()):
    moco.embed(sys.argv[1], sys.argv[2], sys.argv[3], labels="none")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_features(run: moco.Run, tmp_path: Path) -> None:
    """Links to one file: six times the images, and hardly more than their names."""
    picture(0).save(tmp_path / "one.jpg")
    peaks = {}
    for count in (300, 1800):
        folder = tmp_path / str(count)
        folder.mkdir()
        for n in range(count):
            os.link(tmp_path / "one.jpg", folder / f"{n:05}.jpg")
        words = [sys.executable, "-c", CODE, str(run.path), str(folder), str(tmp_path / f"{count}.parquet")]
        found = subprocess.run(words, capture_output=True, text=True, check=True)
        peaks[count] = 1024 * int(found.stdout)
    assert peaks[1800] - peaks[300] < 16e6, peaks


def test_mistakes(run: moco.Run, flat: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.npz"
    for keywords, message in (
        ({"out": tmp_path / "f.csv"}, r"give a name that ends in \.parquet"),
        ({"batch_size": 0}, "--batch_size is 0"),
        ({"checkpoint": "9"}, "epoch 9 was not kept"),
        ({"data": tmp_path / "nowhere"}, "no such file or folder"),
        ({"run": tmp_path}, "not a run directory"),
    ):
        with pytest.raises(moco.UserError, match=message):
            moco.embed(**{"run": run, "data": flat, "out": out, **keywords})  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_about_says_how_it_was_made(run: moco.Run, flat: Path, tmp_path: Path) -> None:
    about = open_table(moco.embed(run, flat, tmp_path / "f.npz", checkpoint="1").path).about
    assert (about["step"], about["encoder"], about["checkpoint"]) == (3, "query", "1")
    assert about["source"] == str(flat) and len(about["data_sha256"]) == 64
    assert about["run"] == json.loads((run.path / ".moco-run.json").read_text())["run"]


def test_what_is_not_ours_beside_the_parts_stays(
    run: moco.Run, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = tmp_path / ".x.npz.parts.tmp/thesis.txt"
    stranger.parent.mkdir()
    stranger.write_text("mine")
    with pytest.raises(moco.UserError, match="not left by `moco embed`"):
        moco.embed(run, flat, tmp_path / "x.npz")
    assert stranger.exists()
    original, notes = embedding.Parts.write, tmp_path / "y.npz.parts/notes"

    def with_notes(parts: embedding.Parts, number: int, part: embedding.Part) -> None:
        original(parts, number, part)
        notes.mkdir(exist_ok=True)

    monkeypatch.setattr(embedding.Parts, "write", with_notes)
    moco.embed(run, flat, tmp_path / "y.npz")
    assert (tmp_path / "y.npz").exists() and [*notes.parent.iterdir()] == [notes]
    assert "notes isn't moco's" in capsys.readouterr().err


def test_a_class_whose_name_is_no_text_is_escaped(run: moco.Run, tmp_path: Path) -> None:
    for name in (b"caf\xe9", b"dog"):
        write_pictures(tmp_path / "data" / os.fsdecode(name), 2)
    moco.embed(run, tmp_path / "data", tmp_path / "x.parquet")
    assert set(rows(open_table(tmp_path / "x.parquet"))[1]) == {"caf\\udce9", "dog"}
