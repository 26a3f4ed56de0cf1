"""`moco doctor` from the command line: what it prints, its JSON, its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import write_pictures

from moco.cli import main


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for c, name in enumerate(("cat", "[dog]")):
        write_pictures(tmp_path / "data/train" / name, 4, 100 * c)
        write_pictures(tmp_path / "data/val" / name, 2, 100 * c + 50)
    return tmp_path / "data"


def test_fine(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "data"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("8 train and 4 validation images, 2 classes; examined in")
    assert "serious" not in out
    for text in ("unreadable images", "[dog]", "short side", "12 JPEG RGB"):
        assert text in out
    assert [path.name for path in tree.parent.iterdir()] == ["data"]


def test_serious(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(5):
        (tree / f"train/cat/bad\n{i}.jpg").touch()
    (tree / "val/cat/leak.jpg").write_bytes((tree / "train/cat/000.jpg").read_bytes())
    assert main(["doctor", "data", "--json", "found.json"]) == 1
    out, error = capsys.readouterr()
    assert error.splitlines()[-1] == "moco: found 5 unreadable images and 1 picture in both train and val"
    assert "Traceback" not in error
    assert "unreadable: train/cat/bad\\n0.jpg (empty file)" in out
    assert "unreadable: and 2 more (--json FILE lists all)" in out
    assert "in train and val: train/cat/000.jpg = val/cat/leak.jpg" in out
    found = json.loads(Path("found.json").read_text())
    assert found["data"] == "data"
    assert len(found["unreadable"]) == 5
    assert found["exact_leaks"] == [["train/cat/000.jpg", "val/cat/leak.jpg"]]
    assert found["images"] == {"train": 13, "val": 5}


def test_more_than_eight_bits(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    levels = np.linspace(160, 4014, 900).reshape(30, 30)
    Image.fromarray(levels.astype(np.uint16)).save(tree / "train/cat/deep.png")
    (tree / "val/cat/cut.jpg").write_bytes((tree / "val/cat/000.jpg").read_bytes()[:-2])
    assert main(["doctor", "data", "--json", "found.json"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "without an end marker: val/cat/cut.jpg" in out
    assert "│ uint16 grey │ 1 │ 160..4014 │ │ 0..4095 │ 6 % │" in out
    assert "--store.range matters here" in out
    assert json.loads(Path("found.json").read_text())["depths"]["uint16 grey"]["packed"] == [0, 4095]
    assert main(["doctor", "data", "--json", "found.json"]) == 0  # its own is replaced, nobody else's
    Path("notes.json").write_text("{}")
    assert main(["doctor", "data", "--json", "notes.json"]) == 2
    assert "notes.json is there and doesn't say that moco doctor wrote it" in capsys.readouterr().err
    assert Path("notes.json").read_text() == "{}"


def test_the_json_is_written_before_anything_is_printed(tree: Path) -> None:
    command = [sys.executable, "-m", "moco", "doctor", "data", "--json", "found.json"]
    read, write = os.pipe()
    os.close(read)  # as `| head` does
    subprocess.run(command, stdout=write, stderr=subprocess.DEVNULL, check=False)
    os.close(write)
    assert json.loads(Path("found.json").read_text())["serious"] == []


def test_unlabelled(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "data/train/cat"]) == 0
    out = capsys.readouterr().out
    assert "4 images without labels" in out
    rows = {line.split("│")[1].strip(): line for line in out.splitlines() if line.startswith("│")}
    assert "no labels: not looked for" in rows["same file under two classes"]
    assert "no val: not looked for" in rows["same file in train and val"]
    assert "fine" in rows["same file twice"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere/at/all"], "no such file or folder"),
        (["imagenete"], "did you mean imagenette?"),
        (["shapes"], "shapes is built in"),
        (["data", "--distance", "40"], "--distance is 40, give 0 to 12 bits"),
        (["data", "--distance", "-1"], "--distance is -1"),
        (["data", "--json", "no/such/folder.json"], "there is no such folder to write to"),
        (["data", "--labels", "folder"], "labels"),
        (["data", "--jsn", "x"], "did you mean --json"),
        ([], "data"),
    ],
)
def test_mistakes(tree: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    assert main(["doctor", *argv]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    (line,) = error.splitlines()
    assert message in line
    assert [path.name for path in tree.parent.iterdir()] == ["data"]


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--help"]) == 0
    assert "moco doctor data/imagenette2-320 --json doctor.json" in capsys.readouterr().out
