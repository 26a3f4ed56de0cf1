"""`--store.format jpeg`: a run on JPEGs resumes to the same bits, and keeps to its format later."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from tests.conftest import SMALL

from moco import checkpoint
from moco.cli import main
from moco.train.training import Training

OPTIONS = [*SMALL, "--monitor.logistic=false", "--store.format=jpeg"]


def model(run: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.load(run / "checkpoints/last.pt")["model"])


def format_of(run: Path) -> str:
    return str(yaml.safe_load((run / "config.yaml").read_text())["store"]["format"])


@pytest.fixture(scope="module")
def whole(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(["pretrain", *OPTIONS, "--data", str(labelled), "--out", str(out)]) == 0
    return out


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal

    original = Training.step

    def stepped(self: Training, images: object) -> object:
        stats = original(self, images)  # type: ignore[arg-type]
        if self.progress.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return stats

    monkeypatch.setattr(Training, "step", stepped)


def test_stopped_and_resumed_is_the_same_to_the_bit(
    whole: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    stop_after(4, monkeypatch)
    assert main(["pretrain", *OPTIONS, "--data", str(labelled), "--out", str(out)]) == 75
    monkeypatch.undo()
    assert main(["pretrain", "--resume", str(out), "--runtime.threads=1"]) == 0
    found, expected = model(out), model(whole)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_what_follows_opens_the_same_store(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(whole), "--begin=0"]) == 0
    assert main(["evaluate", str(whole)]) in (0, 2)  # 2: there is no linear classifier yet, and it says so
    assert "have changed" not in capsys.readouterr().err


def test_the_decision_is_the_runs_and_is_not_taken_again(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, cache = tmp_path / "run", f"--store.cache={tmp_path / 'cache'}"
    options = [*SMALL, "--monitor.logistic=false", "--data", str(labelled), cache]
    with monkeypatch.context() as patched:
        patched.setattr("moco.data.format.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
        stop_after(2, patched)
        assert main(["pretrain", *options, "--out", str(out)]) == 75
    assert format_of(out) == "jpeg"
    assert "store.format jpeg: about" in capsys.readouterr().err
    assert main(["pretrain", "--resume", str(out), "--store.format=raw"]) == 2
    assert "store.format was jpeg, now raw" in capsys.readouterr().err
    assert main(["pretrain", *options, "--store.format=raw", "--out", str(tmp_path / "raw")]) == 0
    assert format_of(tmp_path / "raw") == "raw"
    assert main(["pretrain", "--resume", str(out), "--store.format=auto"]) == 0  # raw is there now, and room for it
    assert format_of(out) == "jpeg"


def test_a_run_from_before_there_was_a_choice_goes_on_with_pixels(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    stop_after(2, monkeypatch)
    cache = f"--store.cache={tmp_path / 'cache'}"
    assert (
        main(["pretrain", *SMALL, "--monitor.logistic=false", "--data", str(labelled), cache, "--out", str(out)]) == 75
    )
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["store"].pop("format") == "raw"
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.undo()
    monkeypatch.setattr("moco.data.format.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    assert main(["pretrain", "--resume", str(out), f"--store.cache={tmp_path / 'empty'}"]) == 0
    assert format_of(out) == "raw"
