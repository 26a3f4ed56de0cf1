"""`moco runs` and `moco cache` as they are typed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.conftest import SMALL, write_pictures

from moco.cli import main
from moco.runs.listing import list_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("typed")
    photos = str(write_pictures(root / "photos", 16))
    for name, seed in (("a", 0), ("b", 1)):
        words = [*SMALL, "--data", photos, "--store.cache", str(root / "cache"), "--out", str(root / "runs" / name)]
        assert main(["pretrain", *words, f"--seed={seed}"]) == 0
    return root / "runs"


def test_the_table_and_its_json(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["runs", str(runs)]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in (str(runs / "a"), "finished", "2/2", "photos"))
    assert main(["runs", str(runs), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in rows] == ["finished"] * 2 and rows[0]["disk_bytes"] > 10_000


def test_a_linear_classification_of_earlier_weights_says_of_which(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = list_runs(runs)[0]
    for done, shown in ((1, "70.0 % (epoch 1)"), (row.epochs_done, "70.0 %")):
        rows = [replace(row, linear=0.7, linear_epoch=done)]
        monkeypatch.setattr("moco.commands.runs.list_runs", lambda _, rows=rows: rows)
        monkeypatch.setenv("COLUMNS", "400")
        assert main(["runs", str(runs)]) == 0
        out = capsys.readouterr().out
        assert shown in out and ("epoch 1" in out) == (done == 1)


def test_comparing(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["runs", "compare", str(runs / "a"), str(runs / "b")]) == 0
    said = capsys.readouterr().out
    assert "seed" in said and "loss" in said and "temperature" not in said
    assert main(["runs", "compare", str(runs / "a"), str(runs / "b"), "--json"]) == 0
    assert {"where": "config", "name": "seed", "first": 0, "second": 1} in json.loads(capsys.readouterr().out)
    assert main(["runs", "compare", str(runs / "a")]) == 2
    assert "compare A B" in capsys.readouterr().err


def test_watching_goes_on_until_it_is_stopped(runs: Path) -> None:
    words = [sys.executable, "-m", "moco", "runs", str(runs), "--watch", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert len(json.loads(watching.stdout.readline())) == 2
        time.sleep(0.3)
        assert watching.poll() is None
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 130


def test_the_cache(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = ["--store.cache", str(runs.parent / "cache")]
    capsys.readouterr()
    assert main(["cache", *cache]) == 0
    said = capsys.readouterr().out
    assert "photos" in said and "16" in said and "today" in said and "1 stores" not in said
    assert main(["cache", "prune", *cache]) == 2
    assert "--older-than DAYS, or --all" in capsys.readouterr().err
    assert main(["cache", "prune", *cache, "--older-than", "1"]) == 0
    assert "nothing removed" in capsys.readouterr().out
    assert main(["cache", "prune", *cache, "--all"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("removed ") and "photos" in said
    assert main(["cache", *cache]) == 0
    assert "no packed store" in capsys.readouterr().out
    assert main(["cache", "prnue"]) == 2
