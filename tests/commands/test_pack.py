"""`moco pack`, and a run on what it wrote: the same bits as on the images themselves with `--store.format jpeg`."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch
from tests.conftest import SMALL

import moco
from moco import checkpoint
from moco.cli import main

RUN = [*SMALL, "--monitor.logistic=false"]


def test_packed_and_trained_on(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    assert main(["pack", str(labelled), *SMALL, "--out", str(store)]) == 0
    said = capsys.readouterr().out
    assert f"{store}: 24 train, 10 val images" in said and "in 2 chunks" in said
    assert main(["pretrain", *RUN, "--data", str(store), "--out", str(tmp_path / "a")]) == 0
    files = ["--data", str(labelled), "--store.format=jpeg"]
    assert main(["pretrain", *RUN, *files, "--out", str(tmp_path / "b")]) == 0
    one, other = (dict(checkpoint.load(tmp_path / name / "checkpoints/last.pt")["model"]) for name in "ab")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert main(["verify", str(tmp_path / "a"), "--begin=0"]) == 0
    assert moco.open_run(tmp_path / "a").config.store.format == "jpeg"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--out STORE is missing"),
        (["--out", "x", "--store.format", "raw"], "a packed store holds JPEGs"),
        (["--out", "x", "--data", "shapes"], "shapes are drawn"),
        (["--out", "x", "--data", "nowhere"], "no such"),
    ],
)
def test_mistakes_are_a_line(
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    data = [] if "--data" in words else [str(labelled)]
    assert main(["pack", *data, *SMALL, *words]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_the_next_line_is_what_trains_on_it(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "a store"
    words = [*SMALL, "--store.labels=none", "--store.holdout=0.25"]
    assert main(["pack", str(labelled), *words, "--out", str(store)]) == 0
    (hint,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: moco pretrain ")]
    again = [*RUN, *shlex.split(hint)[3:], "--out", str(tmp_path / "run")]
    assert "none" in again and "0.25" in again
    assert main(["pretrain", *again]) == 0


def test_data_named_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", "a", "--data", "b", "--out", "c"]) == 2
    assert "give one" in capsys.readouterr().err
