"""kill -9 during `moco linear`, at random moments and of both protocols: the folder is always of one fit.

A short version runs with the tests; `make soak` asks for 30 kills.
"""

from __future__ import annotations

import csv
import json
import os
import random
from pathlib import Path

import torch
from tests.conftest import SMALL
from tests.kills import worker

from moco.cli import main

KILLS = min(int(os.environ.get("MOCO_SOAK", "3")), 30)
SETUP = """
from moco.cli import main
from moco.runs.linear import linear
import moco.evaluators.linear_sgd, random
"""
OURS = {"classifier.pt", "metrics.csv", "result.json"}


def of_one_fit(folder: Path) -> str | None:
    """The protocol of the fit in `folder`; None before there is any."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not names & OURS:
        return None
    assert names >= OURS, names
    result = json.loads((folder / "result.json").read_text())
    about = torch.load(folder / "classifier.pt", weights_only=True)["about"]
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert about["protocol"] == result["protocol"]
    assert len(rows) == result["options"]["epochs"]
    assert float(rows[-1]["loss"]) == float(f"{result['loss']:.8g}")
    return str(result["protocol"])


def test_killed_while_fitting(labelled: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["pretrain", *SMALL, "--data", str(labelled), "--out", str(run)]) == 0
    commands = {
        "cached": ["linear", str(run), "--epochs=2", "--passes=1"],
        "sgd": ["linear", str(run), "--protocol=sgd", "--epochs=3"],
    }
    kills, moments = 0, random.Random(KILLS)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (
        worker(SETUP, f"assert main({commands['cached']!r}) == 0", environment) as cached,
        worker(SETUP, f"assert main({commands['sgd']!r}) == 0", environment) as sgd,
    ):
        took = {"cached": cached.attempt(600.0), "sgd": sgd.attempt(600.0)}
        assert of_one_fit(run / "linear") == "sgd"
        (run / "linear" / "notes.txt").write_text("mine")
        for _ in range(20 * KILLS):
            if kills == KILLS:
                break
            name = moments.choice(["cached", "sgd"])
            # half of them at the very end, where the folders change places
            share = moments.uniform(0.0, 1.1) if kills % 2 else moments.uniform(0.9, 1.1)
            done = (cached if name == "cached" else sgd).attempt(share * (took[name] or 1.0))
            kills += done is None
            found = of_one_fit(run / "linear")
            assert found == name if done is not None else found in commands
            assert (run / "linear" / "notes.txt").read_text() == "mine"
    assert kills == KILLS
    assert main(commands["cached"]) == 0
    assert of_one_fit(run / "linear") == "cached"
    assert {path.name for path in run.glob(".linear*")} == {".linear.lock"}
    assert (run / "linear" / "notes.txt").read_text() == "mine"
