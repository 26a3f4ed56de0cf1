"""kill -9 during `moco linear`, at random moments and of both protocols: the folder is always of one fit.

A short version runs with the tests; `make soak` asks for 30 kills.
"""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from tests.conftest import SMALL
from tests.kills import worker

KILLS = min(int(os.environ.get("MOCO_SOAK", "3")), 30)
LAST_S = 0.03  # what follows the classifier: the other two files, a few syncs, and the folders change places
SETUP = """
from moco.cli import main
commands = {commands!r}
for command in commands.values():
    assert main(command) == 0
"""
OURS = {"classifier.pt", "metrics.csv", "result.json"}


def of_one_fit(folder: Path) -> str | None:
    """The protocol of the fit in `folder`; None before there is any. It fails if its files are of several fits."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not names & OURS:
        return None
    assert names >= OURS, names
    result = json.loads((folder / "result.json").read_text())
    about = torch.load(folder / "classifier.pt", weights_only=True)["about"]
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert about == {key: result[key] for key in about} and "protocol" in about
    assert len(rows) == result["options"]["epochs"]
    assert bool(rows[0]["held_out_top1"]) == (result["protocol"] == "cached")
    assert float(rows[-1]["loss"]) == float(f"{result['loss']:.8g}")
    return str(result["protocol"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_while_fitting(labelled: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    linear = run / "linear"
    commands = {
        "pretrain": ["pretrain", *SMALL, "--data", str(labelled), "--out", str(run)],
        "cached": ["linear", str(run), "--epochs=2", "--passes=1"],
        "sgd": ["linear", str(run), "--protocol=sgd", "--epochs=3"],
    }
    moments, kills, fitted = random.Random(KILLS), 0, False
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # of torch's own threads: a fork has none of them
    with worker(SETUP.format(commands=commands), "assert main(commands[what]) == 0", environment) as fitting:
        took = {name: fitting.attempt(60.0, name) or 0.0 for name in ("cached", "sgd")}
        assert of_one_fit(linear) == "sgd"
        shutil.rmtree(linear)  # the first kills find no fit
        for _ in range(20 * KILLS):
            name = moments.choice(["cached", "sgd"])
            if kills % 2:  # at its end, where the folders change places
                done = fitting.attempt(moments.uniform(0, LAST_S), name, run, ".linear-*/classifier.pt")
            else:  # the n-th kill in the n-th part of the time
                done = fitting.attempt((kills + moments.random()) / KILLS * took[name], name)
            took[name] = done or took[name]  # the machine may be busier now, or less
            kills += done is None
            found = of_one_fit(linear)
            assert found in ([name] if done is not None else [*took] if fitted else [*took, None])
            if not fitted and kills > KILLS // 4:
                fitting.attempt(60.0, name)
                (linear / "notes.txt").write_text("mine")
                fitted = True
            assert not fitted or (linear / "notes.txt").read_text() == "mine"
            if kills == KILLS:
                break
        assert kills == KILLS
        assert fitting.attempt(60.0, "cached")
    assert of_one_fit(linear) == "cached"
    assert {path.name for path in run.glob(".linear*")} == {".linear.lock"}
    assert {path.name for path in linear.iterdir()} == {*OURS, "notes.txt"}
    assert (linear / "notes.txt").read_text() == "mine"
