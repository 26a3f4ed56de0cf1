"""Exact resume: an interrupted run ends in the same bits as one that never stopped."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import SMALL

from moco import checkpoint
from moco.cli import main
from moco.model.moco import info_nce
from moco.train.step import StepStats
from moco.train.training import Training

TIMES = {"seconds", "samples_per_s"}
# Everything that could be forgotten: split batch-norm's shuffles, dropout, mid-epoch sums, the queue's pointer, sizes.
OPTIONS = [
    *SMALL,
    "--train.epochs=4",
    "--model.bn_splits=2",
    "--model.symmetric=true",
    "--views.early_size=16",
    "--views.early_epochs=1",
    "--monitor.every_epochs=1",
    "--checkpoint.every_epochs=1",
]


def tensors(run: Path) -> dict[str, torch.Tensor]:
    content = checkpoint.load(run / "checkpoints" / "last.pt")
    found = dict(content["model"])
    for index, entry in content["optimizer"]["state"].items():
        found |= {f"{name}{index}": torch.as_tensor(value) for name, value in entry.items()}
    return found


def table(run: Path) -> list[dict[str, str]]:
    rows = csv.DictReader((run / "metrics.csv").read_text().splitlines())
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


@pytest.fixture(scope="module")
def whole(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(["pretrain", *OPTIONS, "--data", str(labelled), "--out", str(out)]) == 0
    return out


def interrupt_after(step: int, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send ourselves a real signal after the given step (0: never)."""
    original = Training.step

    def stepped(self: Training, images: np.ndarray) -> StepStats:
        stats = original(self, images)
        if self.progress.step == step:
            os.kill(os.getpid(), number)
        return stats

    monkeypatch.setattr(Training, "step", stepped)


@pytest.mark.parametrize(("stops", "number"), [((1,), signal.SIGINT), ((3, 7), signal.SIGTERM), ((11,), signal.SIGINT)])
def test_interrupted_and_resumed_is_the_same_to_the_bit(
    stops: tuple[int, ...],
    number: signal.Signals,
    whole: Path,
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    command = ["pretrain", *OPTIONS, "--data", str(labelled), "--out", str(out)]
    for step in stops:
        with monkeypatch.context() as patch:
            interrupt_after(step, number, patch)
            assert main(command) == 75
        assert f"--resume {out}" in capsys.readouterr().err
        assert checkpoint.load(out / "checkpoints" / "last.pt")["step"] == step
        command = ["pretrain", "--resume", str(out)]
    assert main(command) == 0
    expected, found = tensors(whole), tensors(out)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert table(out) == table(whole)


NEW = [
    "--model.mask_own=true",
    "--model.momentum_end=1.0",
    "--model.predictor=true",
    "--model.head_layers=3",
    "--model.head_batchnorm=true",
]


@pytest.mark.parametrize("name", ["muon", "lars", "adamw"])
def test_every_optimizer_and_what_the_paper_doesnt_have_resume_to_the_bit(
    name: str, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*OPTIONS, *NEW, "--train.epochs=2", f"--optimizer.name={name}", "--optimizer.lr=0.01"]
    command = ["pretrain", *options, "--optimizer.decay_vectors=false", "--data", str(labelled), "--out"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        interrupt_after(4, signal.SIGTERM, patch)
        assert main([*command, str(tmp_path / "run")]) == 75
    assert main(["pretrain", "--resume", str(tmp_path / "run"), "--runtime.threads=1"]) == 0
    expected, found = tensors(tmp_path / "whole"), tensors(tmp_path / "run")
    assert expected.keys() == found.keys() >= {"queue_images"}
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []
    assert table(tmp_path / "whole") == table(tmp_path / "run")


def test_sigusr1_saves_and_goes_on(labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    interrupt_after(1, signal.SIGUSR1, monkeypatch)
    saved: list[int] = []
    original = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *a: (saved.append(a[1]["step"]), original(*a))[1])
    assert main(["pretrain", *SMALL, "--checkpoint.every_epochs=1", "--data", str(labelled), "--out", str(out)]) == 0
    assert saved == [1, 3, 6]


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(
    whole: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["pretrain", *OPTIONS, "--data", str(labelled), "--out", str(out)]) == 0
    newest, before = checkpoint.numbered(out / "checkpoints")[:2]
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    with newest.open("r+b") as file:  # `last.pt` is the same file
        file.write(damaged)
    capsys.readouterr()
    assert main(["pretrain", "--resume", str(out)]) == 0
    said = capsys.readouterr().err
    assert "is damaged" in said
    assert f"set aside as {newest.name}.damaged" in said
    assert (newest.parent / f"{newest.name}.damaged").read_bytes() == damaged
    assert before.name == "step-00000009.pt"
    expected, found = tensors(whole), tensors(out)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert table(out) == table(whole)


def test_a_full_disk_while_checkpointing_is_one_line_and_the_earlier_checkpoint_stays(
    labelled: Path, tmp_path: Path
) -> None:
    """No file may grow beyond a limit below a checkpoint's size: the write fails as on a full disk."""
    out = tmp_path / "run"
    assert main(["pretrain", *SMALL, "--data", str(labelled), "--out", str(out)]) == 0
    before = sorted(path.name for path in (out / "checkpoints").iterdir())
    code = (
        "import resource, sys; from moco.cli import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000)); sys.exit(main(sys.argv[1:]))"
    )
    words = ["pretrain", "--resume", str(out), "--train.epochs=3"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.search(r"^moco: can't write .*step-00000009\.pt: File too large", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == before
    assert main(words) == 0
    assert checkpoint.load(out / "checkpoints" / "last.pt")["step"] == 9


def test_what_a_killed_run_left_is_cleared_by_the_next_checkpoint(tmp_path: Path) -> None:
    (tmp_path / ".step-00000001.pt.123.tmp").write_bytes(b"half")
    checkpoint.save(tmp_path, {"step": 2}, keep=3, best=True)  # type: ignore[typeddict-item]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "last.pt", "step-00000002.pt"]


def test_a_truncated_and_an_empty_checkpoint_are_passed_over(tmp_path: Path) -> None:
    torch.save({"format": 1, "step": 1}, tmp_path / "step-00000001.pt")
    whole = (tmp_path / "step-00000001.pt").read_bytes()
    (tmp_path / "step-00000002.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "step-00000003.pt").write_bytes(b"")
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.content["step"] == 1
    assert [path.name for path, _ in found.damaged] == ["step-00000003.pt", "step-00000002.pt"]


def test_a_non_finite_loss_stops_with_the_last_finite_checkpoint_kept(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    assert main(["pretrain", *SMALL, "--data", str(labelled), "--out", str(out)]) == 0
    before = tensors(out)
    monkeypatch.setattr("moco.train.step.info_nce", lambda logits: info_nce(logits) * float("nan"))
    assert main(["pretrain", "--resume", str(out), "--train.epochs=3"]) == 1
    said = capsys.readouterr().err
    assert re.search(
        r"the loss is not finite at step 7 \(lr 0\.\d+\); the last finite checkpoint is .*step-00000006\.pt", said
    )
    assert "Traceback" not in said
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors(out).items())
