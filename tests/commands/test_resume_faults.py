"""What goes wrong around a resume: nothing trained is ever thrown away unasked, and what differs is said."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from tests.commands.test_resume import interrupt_after, table, tensors
from tests.conftest import SMALL, write_pictures

from moco import checkpoint
from moco.cli import main
from moco.train.loop import Loop


@pytest.fixture(scope="module")
def finished(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "a run"
    words = [*SMALL, "--checkpoint.every_epochs=1", "--monitor.every_epochs=1"]
    assert main(["pretrain", *words, "--data", str(labelled), "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, of its own."""
    return Path(shutil.copytree(finished, tmp_path / "a run"))


def resume(run: Path, capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(["pretrain", "--resume", str(run), *words]) == code
    return capsys.readouterr().err


def test_with_last_alone_it_goes_on_from_there(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in checkpoint.numbered(run / "checkpoints"):
        path.unlink()
    before = (run / "metrics.csv").read_text()
    assert "resuming at step 6" in resume(run, capsys)
    assert (run / "metrics.csv").read_text() == before


@pytest.mark.parametrize("what", ["damaged", "gone"])
def test_without_a_whole_checkpoint_it_refuses_and_changes_nothing(
    run: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (run / "checkpoints").iterdir():
        path.unlink()
        if what == "damaged":
            path.write_bytes(b"half a checkpoint")
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    said = resume(run, capsys, code=2)
    assert "nothing in" in said and "was changed" in said
    assert ("step-00000006.pt (" in said) is (what == "damaged")
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_best_is_put_right_after_a_kill_between_the_two_files(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run / "checkpoints"
    best = checkpoint.load(folder / "best.pt")
    (folder / "best.pt").unlink()
    for path in checkpoint.numbered(folder):
        if int(path.stem.removeprefix("step-")) > best["step"]:
            path.unlink()
    (folder / "last.pt").unlink()
    resume(run, capsys)
    assert checkpoint.load(folder / "best.pt")["step"] == best["step"]
    assert checkpoint.load(folder / "best.pt")["state"]["best_epoch"] == best["state"]["best_epoch"]


def test_a_signal_while_the_epoch_ends_is_obeyed_only_once_it_was_saved(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes after the loop has looked whether to save: "stopped and saved" was once said of what nobody saved."""
    out = tmp_path / "run"
    saved: list[int] = []
    original = Loop.save
    monkeypatch.setattr(
        Loop, "save", lambda self, *a, **k: (original(self, *a, **k), saved.append(self.training.progress.step))[0]
    )
    due_after = "moco.train.pace.Pace.due_after"

    def signalled(self: object, epoch: int) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return False

    monkeypatch.setattr(due_after, signalled)
    words = [*SMALL, "--store.labels=none", "--train.epochs=3", "--checkpoint.every_minutes=0"]
    assert main(["pretrain", *words, "--data", str(labelled), "--out", str(out)]) == 75
    assert f"stopped and saved at step {saved[-1]}" in capsys.readouterr().err
    assert checkpoint.load(out / "checkpoints" / "last.pt")["step"] == saved[-1]


def test_hanging_up_saves(labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    interrupt_after(2, signal.SIGHUP, monkeypatch)
    assert main(["pretrain", *SMALL, "--data", str(labelled), "--out", str(out)]) == 75
    assert checkpoint.load(out / "checkpoints" / "last.pt")["step"] == 2


def test_a_baseline_that_a_kill_left_out_is_measured_later(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "baseline.json").read_text()
    (run / "baseline.json").unlink()
    resume(run, capsys, "--train.epochs=3")
    assert (run / "baseline.json").read_text() == before  # of the weights at the beginning, not of the trained ones


def test_the_precision_is_the_runs_own_and_not_the_machines(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["runtime"]["precision"] = "auto"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr("moco.machine.cpu_info", lambda: ("another", frozenset({"amx_bf16"})))
    said = resume(run, capsys, "--train.epochs=3")
    assert "float32 (as this run began)" in said
    assert main(["linear", str(run), "--epochs=1", "--passes=0"]) == 0
    assert "float32 (as the run was trained)" in capsys.readouterr().err


def test_what_differs_from_where_it_began_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "checkpoints" / "last.pt"
    content = checkpoint.load(path)
    content["about"]["processor"] = "Some Processor"
    content["about"]["versions"]["torch"] = "1.0"
    for old in checkpoint.numbered(run / "checkpoints"):
        old.unlink()
    path.unlink()
    torch.save(content, path)
    said = resume(run, capsys)
    assert "on Some Processor, now" in said
    assert "with torch 1.0, now" in said
    assert "not to the same bits" in said


def test_more_epochs_than_it_began_with_are_said_to_move_the_rate(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "train.epochs was 2, now 4: the learning rate follows the new schedule" in resume(
        run, capsys, "--train.epochs=4"
    )


def test_the_data_is_found_from_any_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_pictures(tmp_path / "a" / "photos", 10)
    write_pictures(tmp_path / "b" / "photos", 10, first=50)  # another project's, at the same relative place
    monkeypatch.chdir(tmp_path / "a")
    out = tmp_path / "run"
    assert main(["pretrain", *SMALL, "--data", "photos", "--out", str(out)]) == 0
    monkeypatch.chdir(tmp_path / "b")
    resume(out, capsys, "--train.epochs=3")
    assert yaml.safe_load((out / "config.yaml").read_text())["data"] == str(tmp_path / "a" / "photos")


def test_the_steps_table_goes_on_where_the_checkpoint_stood(
    finished: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_after(4, signal.SIGINT, patch)
        assert main(["pretrain", *SMALL, "--data", str(labelled), "--out", str(out)]) == 75
    with (out / "steps.csv").open("a") as file:
        file.write("5,2,0.1,9.9,0\n6,2,0.")  # a killed run wrote on, and was cut off
    assert main(["pretrain", "--resume", str(out)]) == 0
    assert (out / "steps.csv").read_text() == (finished / "steps.csv").read_text()
    rows = list(csv.DictReader((out / "steps.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert [row["epoch"] for row in rows] == ["1", "1", "1", "2", "2", "2"]


def test_every_nth_epoch_is_kept_and_opened_by_its_number(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = [*SMALL, "--train.epochs=4", "--checkpoint.keep=1", "--checkpoint.keep_every_epochs=2"]
    assert main(["pretrain", *words, "--data", str(labelled), "--out", str(out)]) == 0
    assert sorted(p.name for p in (out / "checkpoints").glob("epoch*")) == ["epoch-0002.pt", "epoch-0004.pt"]
    assert main(["linear", str(out), "--checkpoint=2", "--epochs=1", "--passes=0"]) == 0
    assert "epoch 2" in capsys.readouterr().out
    assert main(["linear", str(out), "--checkpoint=3"]) == 2
    assert "kept: 2, 4" in capsys.readouterr().err


def test_old_runs_resume(finished: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run directory as it was before the marker, the steps' table and the kept epochs."""
    (run / ".moco-run.json").unlink()
    (run / "steps.csv").unlink()
    config = yaml.safe_load((run / "config.yaml").read_text())
    del config["checkpoint"]["keep_every_epochs"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    resume(run, capsys)
    assert table(run) == table(finished)
    assert all(torch.equal(a, b) for a, b in zip(tensors(run).values(), tensors(finished).values()))


def test_old_runs_of_several_parts_are_said_to_go_on_with_other_bits(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["pretrain", *SMALL, "--model.bn_splits=2", "--data", str(labelled), "--out", str(out)]) == 0
    content = checkpoint.load(out / "checkpoints" / "last.pt")
    del content["about"]["arithmetic"]
    for path in (out / "checkpoints").iterdir():
        path.unlink()
    torch.save(content, out / "checkpoints" / "last.pt")
    assert "before the parts of a batch had threads of their own: it goes on, but not to the same bits" in resume(
        out, capsys
    )


def test_a_resume_keeps_the_command_line_that_the_run_began_with(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((run / "environment.json").read_text())
    resume(run, capsys, "--train.epochs=3")
    after = json.loads((run / "environment.json").read_text())
    assert (after["command"], after["data_as_given"]) == (before["command"], before["data_as_given"])
    assert len(after["resumed"]) == 1
