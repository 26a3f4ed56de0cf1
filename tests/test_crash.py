"""kill -9 at random moments, resume each time on some number of threads: the end is that of a run never killed.

A short version runs with the tests; `make soak` asks for 50 kills (MOCO_SOAK=50).
"""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from moco import checkpoint
from tests.conftest import SMALL

KILLS = int(os.environ.get("MOCO_SOAK", "3"))
EPOCHS = 40 + 15 * KILLS  # three steps each: long enough that every kill finds it at work
OPTIONS = [
    *SMALL, f"--train.epochs={EPOCHS}", "--model.bn_splits=4", "--model.symmetric=false",
    "--checkpoint.every_minutes=0.01",
    f"--monitor.every_epochs={EPOCHS}", "--monitor.baseline=false",
]  # fmt: skip


TWO = ["--model.bn_splits=2", "--runtime.devices=2", "--runtime.threads=1"]  # in two processes
TIMES = {"seconds", "samples_per_s"}


def rows(run: Path) -> list[dict[str, str]]:
    table = csv.DictReader((run / "metrics.csv").read_text().splitlines())
    return [{k: v for k, v in row.items() if k not in TIMES} for row in table]


def start(out: Path, data: Path, cache: Path, *more: str) -> subprocess.Popen[bytes]:
    """The command that a person would type: begin, or go on if there is something to go on with."""
    words = (
        ["--resume", str(out)] if (out / "config.yaml").exists() else [*OPTIONS, "--data", str(data), "--out", str(out)]
    )
    environment = {**os.environ, "MOCO_CACHE": str(cache)}
    with (out.parent / f"{out.name}.log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "moco", "pretrain", *words, *more], stderr=log, env=environment)


def kill_one(process: subprocess.Popen[bytes], moments: random.Random) -> None:
    """kill -9 of the process or, where it has some, of one of its ranks: the others must end by themselves."""
    pid = process.pid
    ranks = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    os.kill(moments.choice(ranks or [pid]), signal.SIGKILL)


@pytest.mark.timeout(1200)  # eight processes start, one after the other, on whatever else the machine does
@pytest.mark.parametrize("devices", [1, 2])
def test_killed_at_random_moments_and_resumed_is_the_same_to_the_bit(
    labelled: Path, tmp_path: Path, devices: int
) -> None:
    """On some number of threads each time; of two processes one is killed, and the other ends by itself."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    moments = random.Random(KILLS)

    def more() -> list[str]:
        return [f"--runtime.threads={moments.randint(1, 4)}"] if devices == 1 else TWO

    started = time.monotonic()
    uninterrupted = start(whole, labelled, tmp_path / "cache", *more())
    while not (whole / "metrics.csv").exists() and uninterrupted.poll() is None:
        time.sleep(0.01)
    startup_s = time.monotonic() - started
    assert uninterrupted.wait() == 0, (tmp_path / "whole.log").read_text()[-2000:]
    kills = 0
    while kills < KILLS:
        process = start(killed, labelled, tmp_path / "cache2", *more())
        try:
            # Between the very beginning (imports, packing) and well into the training.
            process.wait(timeout=moments.uniform(0.05, startup_s + 1.5))
        except subprocess.TimeoutExpired:
            kill_one(process, moments)
            assert process.wait(timeout=60) != 0
            kills += 1
            continue
        pytest.fail(f"it ended, after {kills} kills: {(tmp_path / 'killed.log').read_text()[-2000:]}")
    last = start(killed, labelled, tmp_path / "cache2", *more())
    assert last.wait() == 0, (tmp_path / "killed.log").read_text()[-2000:]
    expected, found = (checkpoint.load(run / "checkpoints" / "last.pt") for run in (whole, killed))
    assert expected["step"] == found["step"] == 3 * EPOCHS
    different = [n for n, t in expected["model"].items() if not torch.equal(t, found["model"][n])]
    assert different == []
    momenta = [content["optimizer"]["state"] for content in (expected, found)]
    assert all(torch.equal(momenta[0][i]["momentum_buffer"], momenta[1][i]["momentum_buffer"]) for i in momenta[0])
    assert rows(whole) == rows(killed)
    assert "Traceback" not in (tmp_path / "killed.log").read_text()
