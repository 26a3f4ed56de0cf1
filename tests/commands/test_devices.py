"""`moco pretrain` in several processes: the same run, however they were started, stopped and gone on with."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.conftest import SMALL

from moco import checkpoint
from moco.cli import main

OPTIONS = [
    *SMALL, "--runtime.device=cpu", "--runtime.threads=1", "--model.bn_splits=2", "--train.epochs=3",
    "--checkpoint.every_epochs=1",
]  # fmt: skip
TIMES = {"seconds", "samples_per_s"}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "moco"]


def rows(run: Path) -> list[dict[str, str]]:
    table = csv.DictReader((run / "metrics.csv").read_text().splitlines())
    return [{k: v for k, v in row.items() if k not in TIMES} for row in table]


def state(run: Path) -> dict[str, torch.Tensor]:
    found = checkpoint.newest(run / "checkpoints")
    assert found is not None
    momenta = found.content["optimizer"]["state"]
    return {**found.content["model"], **{f"momentum.{n}": s["momentum_buffer"] for n, s in momenta.items()}}


def same(one: Path, other: Path) -> bool:
    a, b = state(one), state(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) and rows(one) == rows(other)


@pytest.fixture(scope="module")
def whole(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one process."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(["pretrain", *OPTIONS, "--data", str(labelled), "--out", str(out)]) == 0
    return out


def test_two_devices_are_one_to_the_bit(whole: Path, labelled: Path, tmp_path: Path) -> None:
    """Weights, momentum, queue, and the monitors' figures, whose features are computed in shares."""
    words = [*OPTIONS, "--runtime.devices=2", "--data", str(labelled), "--out", str(tmp_path / "run")]
    assert main(["pretrain", *words]) == 0
    assert same(whole, tmp_path / "run")
    steps = [(run / "steps.csv").read_text() for run in (whole, tmp_path / "run")]
    assert steps[0] == steps[1]


def test_torchrun_is_the_same(whole: Path, labelled: Path, tmp_path: Path) -> None:
    words = ["pretrain", *OPTIONS, "--data", str(labelled), "--out", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, *TORCHRUN, *words], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert same(whole, tmp_path / "run")
    assert done.stderr.count("epoch 1/3") == 1  # one process speaks
    assert "2 processes, each on cpu, 1 thread" in done.stderr


def test_linear_and_evaluate_in_shares_give_the_figures_of_one(whole: Path, tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("one", "two")]
    for run in runs:
        shutil.copytree(whole, run)
    for command in ("linear", "evaluate"):
        assert main([command, str(runs[0])]) == 0
        words = [sys.executable, *TORCHRUN, command, str(runs[1])]
        done = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    heads = [torch.load(run / "linear" / "classifier.pt", weights_only=True) for run in runs]
    assert torch.equal(heads[0]["weight"], heads[1]["weight"]) and torch.equal(heads[0]["bias"], heads[1]["bias"])
    scores = [json.loads((run / "evaluation.json").read_text()) for run in runs]
    assert [scores[0][split] for split in ("train", "val")] == [scores[1][split] for split in ("train", "val")]


def test_stopped_by_a_signal_and_gone_on_with_in_one_process(whole: Path, labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["pretrain", *OPTIONS, "--runtime.devices=2", "--data", str(labelled), "--out", str(out)]
    with subprocess.Popen([sys.executable, "-m", "moco", *words], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 1/3"):
                process.send_signal(signal.SIGINT)
                break
        told = process.stderr.read()
        assert process.wait(timeout=60) == 75, told
    assert "stopped and saved at step" in told and "Traceback" not in told
    assert main(["pretrain", "--resume", str(out), "--runtime.devices=1"]) == 0
    assert same(whole, out)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_killed_process_ends_the_run_and_is_named(whole: Path, labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["pretrain", *OPTIONS, "--runtime.devices=2", "--data", str(labelled), "--out", str(out)]
    with subprocess.Popen([sys.executable, "-m", "moco", *words], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 1/3"):
                os.kill(children(process.pid)[1], signal.SIGKILL)
                began = time.monotonic()
                break
        told = process.stderr.read()
        assert process.wait(timeout=60) == 1, told
    assert time.monotonic() - began < 60
    assert f"rank 1 of 2 was ended by SIGKILL, and the run with it; go on with: moco pretrain --resume {out}" in told
    assert main(["pretrain", "--resume", str(out)]) == 0  # in two processes again, as it was configured
    assert same(whole, out)


def test_what_does_not_divide_is_said(labelled: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = [*SMALL, "--runtime.device=cpu", "--data", str(labelled), "--out", str(tmp_path / "run")]
    assert main(["pretrain", *words, "--runtime.devices=3"]) == 2
    assert "8 images a step don't divide over 3 processes" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(["pretrain", *words, "--train.accumulate=2", "--model.bn_splits=1"]) == 2
    assert "give --model.bn_splits 2, or a multiple" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
def test_two_gpus_are_one_to_rounding(labelled: Path, tmp_path: Path) -> None:
    words = [*OPTIONS, "--runtime.device=cuda", "--train.epochs=1", "--data", str(labelled)]
    for count in (1, 2):
        assert main(["pretrain", *words, f"--runtime.devices={count}", "--out", str(tmp_path / str(count))]) == 0
    one, two = (state(tmp_path / str(count)) for count in (1, 2))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
