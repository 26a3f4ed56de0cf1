"""Runs on 1, 2 and 4 threads, or on first this many and then that, are the same to the bit in all that they write."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import SMALL

from moco import checkpoint
from moco.cli import main
from moco.train.training import Training

OPTIONS = [
    *SMALL, "--train.epochs=3", "--model.bn_splits=4", "--model.symmetric=true", "--monitor.every_epochs=1",
    "--checkpoint.every_epochs=1",
]  # fmt: skip
OF_TIME = {"seconds", "samples_per_s"}


def rows(file: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in OF_TIME} for row in csv.DictReader(file.read_text().splitlines())]


def written(run: Path) -> dict[str, Any]:
    """Everything that a run leaves and that isn't about time."""
    content = checkpoint.load(run / "checkpoints" / "last.pt")
    state = {k: v for k, v in content["state"].items() if k not in ("seconds", "rows")}
    result = json.loads((run / "linear" / "result.json").read_text())
    return {
        **{f"model.{k}": v for k, v in content["model"].items()},
        **{f"momentum.{k}": v["momentum_buffer"] for k, v in content["optimizer"]["state"].items()},
        **{f"state.{k}": v for k, v in state.items()},
        "metrics": rows(run / "metrics.csv"),
        "steps": rows(run / "steps.csv"),
        "baseline": (run / "baseline.json").read_text(),
        "linear": rows(run / "linear" / "metrics.csv"),
        "grid": result["grid"],
        "evaluation": [json.loads((run / "evaluation.json").read_text())[name] for name in ("train", "val")],
    }


def different(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    assert a.keys() == b.keys()
    return [k for k in a if not (torch.equal(a[k], b[k]) if torch.is_tensor(a[k]) else a[k] == b[k])]


def judged(run: Path) -> dict[str, Any]:
    assert main(["linear", str(run), "--epochs=2"]) == 0
    assert main(["evaluate", str(run)]) == 0
    return written(run)


@pytest.fixture(scope="module")
def on_one(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("one") / "run"
    assert main(["pretrain", *OPTIONS, "--runtime.threads=1", "--data", str(labelled), "--out", str(run)]) == 0
    return judged(run)


@pytest.mark.parametrize("threads", [2, 4])
def test_any_number_of_threads(threads: int, on_one: dict[str, Any], labelled: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["pretrain", *OPTIONS, f"--runtime.threads={threads}", "--data", str(labelled), "--out", str(run)]
    assert main(words) == 0
    assert different(on_one, judged(run)) == []


def test_interrupted_on_two_and_resumed_on_one(
    on_one: dict[str, Any],
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, original = tmp_path / "run", Training.step

    def interrupted(self: Training, images: Any) -> Any:
        stats = original(self, images)
        if self.progress.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return stats

    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", interrupted)
        words = ["pretrain", *OPTIONS, "--runtime.threads=2", "--data", str(labelled), "--out", str(run)]
        assert main(words) == 75
    capsys.readouterr()
    assert main(["pretrain", "--resume", str(run), "--runtime.threads=1"]) == 0
    assert "not to the same bits" not in capsys.readouterr().err
    assert different(on_one, judged(run)) == []


def test_the_whole_batch_at_once_says_that_another_number_changes_bits(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = [*SMALL, "--train.epochs=2", "--model.bn_splits=1", "--monitor.logistic=false", "--data", str(labelled)]
    assert main(["pretrain", *words, "--runtime.threads=1", "--out", str(run)]) == 0
    capsys.readouterr()
    assert main(["pretrain", "--resume", str(run), "--train.epochs=3", "--runtime.threads=2"]) == 0
    said = capsys.readouterr().err
    one, two = (f"the whole batch at once on {n} threads (small maps by products, forward too)" for n in (1, 2))
    assert f"computing {one}, now {two}" in said
    assert "not to the same bits" in said
