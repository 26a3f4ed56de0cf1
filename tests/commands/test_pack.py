"""`moco pack`, and a run on what it wrote: the same bits as on the images themselves with `--store.format jpeg`."""

from __future__ import annotations

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
