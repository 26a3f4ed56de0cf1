"""`moco.search`: the planted copy comes first, and only an index of this very backbone is searched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import picture, write_pictures

import moco
from moco.cli import main

TINY = {
    "model.backbone": "timm/test_resnet", "model.queue_size": 32, "model.dim": 16, "views.size": 32,
    "train.batch_size": 8, "train.epochs": 1, "schedule.warmup_epochs": 0, "runtime.precision": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> moco.Run:
    config = moco.recipe("folder-cpu", data=str(labelled), **TINY)
    return moco.pretrain(config, tmp_path_factory.mktemp("search") / "run")


@pytest.fixture(scope="module", params=["parquet", "npz", "npy"])
def index(
    run: moco.Run, labelled: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
    out = tmp_path_factory.mktemp("index") / f"features.{request.param}"
    return moco.embed(run, labelled, out, normalize=request.param == "npz").path


def test_the_copy_comes_first(run: moco.Run, index: Path, labelled: Path, tmp_path: Path) -> None:
    Image.open(labelled / "train/dog/007.jpg").save(tmp_path / "copy.jpg", quality=60)
    picture(9999).save(tmp_path / "other.png")
    found = moco.search(run, index, [tmp_path / "copy.jpg", tmp_path / "other.png"], k=3, out=tmp_path / "sheet.png")
    assert [len(one.matches) for one in found] == [3, 3]
    assert (found[0].matches[0].path, found[0].matches[0].label) == ("train/dog/007.jpg", "dog")
    assert 0.95 < found[0].matches[0].score <= 1.0001
    scores = [match.score for match in found[1].matches]
    assert scores == sorted(scores, reverse=True) and scores[0] < 0.99999
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[0] > 2 * 100 and (sheet != 255).any()
    assert len(moco.search(run, index, tmp_path / "copy.jpg", k=1000)[0].matches) == 34


def test_an_index_of_another_backbone_is_refused(run: moco.Run, index: Path, labelled: Path, tmp_path: Path) -> None:
    config = moco.recipe("folder-cpu", data=str(labelled), seed=1, **{**TINY, "views.size": 40})
    other = moco.pretrain(config, tmp_path / "other")
    with pytest.raises(moco.UserError, match=r"made with another backbone, views of another size.*embed again"):
        moco.search(other, index, labelled / "train/dog/007.jpg")


def test_mistakes(run: moco.Run, index: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"x")
    (tmp_path / "cat.png").write_bytes(b"a picture of mine")
    for keywords, message in (
        ({"query": tmp_path / "bad.jpg"}, r"--query .*bad\.jpg: not an image"),
        ({"query": tmp_path / "none.jpg"}, r"--query .*none\.jpg: No such file"),
        ({"query": []}, "give an image to --query"),
        ({"query": "a.jpg", "k": 0}, "--k is 0"),
        ({"query": "a.jpg", "out": "sheet.jpg"}, r"a name that ends in \.png"),
        ({"query": "a.jpg", "out": tmp_path / "cat.png"}, "cat.png is there and doesn't say that moco search wrote it"),
        ({"query": "a.jpg", "index": tmp_path / "none.npz"}, "no index at"),
    ):
        with pytest.raises(moco.UserError, match=message):
            moco.search(**{"run": run, "index": index, **keywords})  # type: ignore[arg-type]


def test_what_is_looked_at_is_what_would_be_written(
    run: moco.Run, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "cat.png").write_bytes(b"a picture of mine")
    with pytest.raises(moco.UserError, match="doesn't say that moco search wrote it"):
        moco.search(run, index, "a.jpg", out="~/cat.png")


def test_images_that_moved_are_looked_for_where_one_says(run: moco.Run, tmp_path: Path) -> None:
    photos = write_pictures(tmp_path / "photos", 4)
    index = moco.embed(run, photos, tmp_path / "f.npz").path
    photos.rename(tmp_path / "moved")
    query, out = tmp_path / "moved/002.jpg", tmp_path / "sheet.png"
    assert moco.search(run, index, query)[0].matches[0].path == "002.jpg"
    with pytest.raises(moco.UserError, match="if they moved, give --data"):
        moco.search(run, index, query, out=out)
    moco.search(run, index, query, out=out, data=tmp_path / "moved")
    drawn = out.read_bytes()
    moco.search(run, index, query, out=out, data=tmp_path / "moved")  # its own is replaced
    assert out.read_bytes() == drawn


def test_from_the_command_line(run: moco.Run, flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, sheet = tmp_path / "f.parquet", tmp_path / "sheet.png"
    assert main(["embed", str(run.path), "--data", str(flat), "--out", str(out), "--normalize"]) == 0
    told = capsys.readouterr().out
    assert "24 images, 96 features each, 0 left out" in told and "moco search" in told
    query = str(flat / "003.jpg")
    words = ["search", str(run.path), "--index", str(out), "--k", "2", "--out", str(sheet), "--query", query]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "1.0000" in told and "003.jpg" in told and sheet.is_file()
    for argv, message in (
        (["embed", str(tmp_path), "--data", "x", "--out", "f.npz"], "not a run directory"),
        (["embed", str(run.path), "--data", str(flat), "--out", "f.csv"], ".parquet, .npz, .npy"),
        (["embed", str(run.path), "--data", str(flat), "--out", str(out)], "is there already"),
        (["embed", str(run.path), "--data", str(flat), "--out", str(out), "--normalise"], "did you mean --normalize?"),
        (["search", str(run.path), "--index", str(sheet), "--query", query], ".parquet, .npz, .npy"),
    ):
        assert main(argv) == 2
        (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("moco: ")]
        assert message in line
