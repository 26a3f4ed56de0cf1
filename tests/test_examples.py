"""Everything in examples/ runs as it stands."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbclient
import nbformat
import pytest

import moco

EXAMPLES = Path(__file__).parents[1] / "examples"
TINY = {
    "model.backbone": "timm/test_resnet", "model.queue_size": 32, "model.dim": 16, "views.size": 32,
    "train.batch_size": 8, "train.epochs": 1, "schedule.warmup_epochs": 0, "runtime.precision": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> moco.Run:
    config = moco.recipe("folder-cpu", data=str(labelled), **TINY)
    return moco.pretrain(config, tmp_path_factory.mktemp("examples") / "run")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Runs a script as `python SCRIPT WORDS` does, in this process, and gives the lines that it prints."""

    def start(script: str, *words: str | Path) -> list[str]:
        monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return start


def test_there_is_nothing_that_no_test_runs() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == {
        "features_of_a_folder.py", "finetune_with_few_labels.py", "first_steps.ipynb", "imagenette.sh",
    }  # fmt: skip


def test_features_of_a_folder(started: Callable[..., list[str]], run: moco.Run, labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.parquet"
    lines = started("features_of_a_folder.py", run.path, labelled, "--out", out, "--queries", "2")
    assert lines[0].startswith("34 images, ")
    assert len(lines) == 3
    for line in lines[1:]:
        query, _, alike = line.partition(": ")
        assert Path(query).is_file()
        assert len(alike.split(", ")) == 3
        assert str(Path(query).relative_to(labelled)) not in alike  # it is left out of its own neighbours


def test_finetune_with_few_labels(started: Callable[..., list[str]], run: moco.Run, tmp_path: Path) -> None:
    """A comparison of one draw, then of two: the first draw's are there already, and aren't trained again."""
    words = [run.path, "--labels", "2-per-class", "--epochs", "1", "--out", tmp_path / "few"]
    lines = started("finetune_with_few_labels.py", *words, "--draws", "1")
    assert [line.split(":")[0] for line in lines] == ["from run", "from scratch"]
    written = (tmp_path / "few" / "run-2-per-class-1-epochs-0" / "checkpoints" / "last.pt").stat().st_mtime_ns
    more = started("finetune_with_few_labels.py", *words, "--draws", "2")
    assert (tmp_path / "few" / "run-2-per-class-1-epochs-0" / "checkpoints" / "last.pt").stat().st_mtime_ns == written
    assert "standard deviation" in more[0] and "standard deviation" not in lines[0]
    first = [re.search(r"\(([\d.]+)", line) for line in (lines[1], more[1])]
    assert first[0] and first[1] and first[0][1] == first[1][1]


@pytest.mark.timeout(900)  # five commands, each a process of its own
def test_the_chain_from_images_to_a_tested_backbone(labelled: Path, tmp_path: Path) -> None:
    """In one go; begun again it passes over what is done."""
    out = tmp_path / "run"
    words = ["sh", str(EXAMPLES / "imagenette.sh"), str(labelled), str(out), "folder-cpu"]
    words += [f"--{name}={value}" for name, value in {**TINY, "runtime.device": "cpu"}.items()]
    path = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    first = subprocess.run(words, env=path, check=False, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr[-2000:]
    assert (out / "report.html").is_file() and "% of" in first.stdout
    written = (out / "linear" / "result.json").stat().st_mtime_ns
    again = subprocess.run(words, env=path, check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-2000:]
    assert (out / "linear" / "result.json").stat().st_mtime_ns == written
    wrong = subprocess.run(words[:3], env=path, check=False, capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.startswith("usage: ")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first cell to its last, in a kernel of its own; a cell that fails is the test's failure."""
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    notebook = nbformat.read(EXAMPLES / "first_steps.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "stored without outputs"
    client = nbclient.NotebookClient(
        notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    told = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", []))
    assert "epoch 1: loss" in told
    assert "\x1b" not in told and "\r" not in told  # lines as in a file, nothing that moves a cursor
    assert (tmp_path / "runs" / "first-steps" / "labels.json").is_file()
