"""`moco pretrain` from the command line, on real image files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from tests.conftest import SMALL, write_pictures

from moco import checkpoint
from moco.cli import main
from moco.rundir import RunDir


def rows(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of a command line that must be refused with exit code 2."""
    capsys.readouterr()
    assert main(["pretrain", *words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("moco: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope="module")
def finished(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "a"
    assert main(["pretrain", *SMALL, "--data", str(labelled), "--out", str(out)]) == 0
    return out


def test_a_run_leaves_what_the_design_lists(finished: Path) -> None:
    table = rows(finished)
    assert [row["epoch"] for row in table] == ["1", "2"]
    assert [row["step"] for row in table] == ["3", "6"]
    assert [row["samples"] for row in table] == ["24", "48"]
    last = table[-1]
    assert 0 <= float(last["knn_top1"]) <= 1
    assert 0 <= float(last["logistic_val_top1"]) <= 1
    assert float(last["loss_of_guessing"]) == pytest.approx(3.4965, abs=1e-3)
    assert float(last["queue_fill"]) == 1
    assert float(last["embedding_std"]) > 0
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["model"]["backbone"] == "timm/test_resnet"
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0] or environment["versions"]["torch"]
    assert set(environment["data"]) == {"train", "val"}
    assert set(json.loads((finished / "baseline.json").read_text())) == {
        "raw_pixels_knn_top1",
        "random_backbone_knn_top1",
    }
    assert list((finished / "tensorboard").iterdir())


def test_checkpoints_are_loadable_with_weights_only(finished: Path) -> None:
    for name in ("last.pt", "best.pt"):
        content = torch.load(finished / "checkpoints" / name, weights_only=True)
        assert content["model"]["queue"].shape == (32, 16)
    assert checkpoint.load(finished / "checkpoints" / "last.pt")["step"] == 6


def test_a_flat_folder_works_with_no_other_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three images and the default recipe, its length cut short."""
    monkeypatch.setattr("moco.sizing.LENGTHS", {"cpu": (2, 1, 2), "cuda": (2, 1, 2)})
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "photos", 3)
    assert main(["pretrain", "--data", "photos"]) == 0
    said = capsys.readouterr().err
    assert "without labels" in said
    assert "--recipe auto" in said and "optimizer.name muon" in said
    for decided in ("train.batch_size 2", "model.bn_splits 1", "model.queue_size 4", "train.epochs 2"):
        assert decided in said
    run = next((tmp_path / "runs").iterdir())
    assert len(rows(run)) == yaml.safe_load((run / "config.yaml").read_text())["train"]["epochs"]
    assert rows(run)[-1]["knn_top1"] == ""


def test_same_seed_same_bits_and_another_seed_others(labelled: Path, finished: Path, tmp_path: Path) -> None:
    reference = checkpoint.load(finished / "checkpoints" / "last.pt")["model"]
    for seed, same in ((0, True), (1, False)):
        out = tmp_path / f"seed{seed}"
        assert main(["pretrain", *SMALL, "--data", str(labelled), "--out", str(out), f"--seed={seed}"]) == 0
        model = checkpoint.load(out / "checkpoints" / "last.pt")["model"]
        assert all(torch.equal(reference[name], model[name]) for name in reference) is same


def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, data = tmp_path / "new", str(labelled)
    (tmp_path / "empty").mkdir()
    assert "no such file" in error_of(capsys, *SMALL, "--out", str(out), "--data", str(tmp_path / "nowhere"))
    assert "no images" in error_of(capsys, *SMALL, "--out", str(out), "--data", str(tmp_path / "empty"))
    assert "no data" in error_of(capsys, *SMALL, "--out", str(out))
    assert "imagenette" in error_of(capsys, "--recipe", "imagenete", "--data", data, "--out", str(out))
    assert "resnet18" in error_of(capsys, *SMALL, "--data", data, "--out", str(out), "--model.backbone=resnt18")
    assert "--model.backbone" in error_of(capsys, *SMALL, "--data", data, "--out", str(out), "--model.backbon=x")
    assert "larger than the data" in error_of(
        capsys, *SMALL, "--data", data, "--out", str(out), "--train.batch_size=25", "--model.queue_size=64"
    )
    several = error_of(capsys, *SMALL, "--data", data, "--out", str(out), "--optimizer.lr=-1", "--train.epochs=0")
    assert "optimizer.lr" in several
    assert "train.epochs" in several
    assert not out.exists()


def test_an_existing_run_is_never_overwritten_unasked(
    finished: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "metrics.csv").read_bytes()
    assert "--resume" in error_of(capsys, *SMALL, "--data", str(labelled), "--out", str(finished))
    assert (finished / "metrics.csv").read_bytes() == before
    (tmp_path / "mine.txt").write_text("keep")
    assert "other files" in error_of(capsys, *SMALL, "--data", str(labelled), "--out", str(tmp_path), "--overwrite")
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_resume_refuses_another_run_than_the_one_it_continues(
    finished: Path, labelled: Path, flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resume = ("--resume", str(finished))
    assert "model.backbone was timm/test_resnet, now resnet34" in error_of(capsys, *resume, "--model.backbone=resnet34")
    assert "optimizer.lr" in error_of(capsys, *resume, "--optimizer.lr=0.5")
    assert "data has changed" in error_of(capsys, *resume, "--data", str(flat))
    assert "no such folder" in error_of(capsys, "--resume", str(tmp_path / "nowhere"))
    assert "config.yaml" in error_of(capsys, "--resume", str(tmp_path))
    assert "--out" in error_of(capsys, *resume, "--out", str(tmp_path / "b"))


def test_two_processes_never_train_in_one_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "metrics.csv").read_bytes()
    with RunDir(finished).locked():
        assert "another process is training" in error_of(capsys, "--resume", str(finished))
        words = [*SMALL, "--data=shapes", "--out", str(finished), "--overwrite"]
        assert "another process is training" in error_of(capsys, *words)
    assert (finished / "metrics.csv").read_bytes() == before


def test_more_epochs_may_be_asked_of_a_finished_run(labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "longer"
    assert main(["pretrain", *SMALL, "--data", str(labelled), "--out", str(out)]) == 0
    assert main(["pretrain", "--resume", str(out), "--train.epochs=3"]) == 0
    assert [row["epoch"] for row in rows(out)] == ["1", "2", "3"]
    assert yaml.safe_load((out / "config.yaml").read_text())["train"]["epochs"] == 3
