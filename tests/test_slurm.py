"""The job scripts: what they would run, with `srun` replaced by a stand-in that runs its arguments."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "slurm"


def commands_of(script: str, folder: Path, *options: str, **variables: str) -> list[str]:
    """The command lines that the script starts, `moco` replaced by `echo moco`."""
    stand_in = folder / "bin"
    stand_in.mkdir(exist_ok=True)
    for name, text in (("srun", '#!/bin/sh\nexec "$@"\n'), ("moco", '#!/bin/sh\necho moco "$@"\n')):
        (stand_in / name).write_text(text)
        (stand_in / name).chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{stand_in}:{os.environ['PATH']}", "MOCO": str(stand_in / "moco"),
        "SLURM_SUBMIT_DIR": str(folder), **variables,
    }  # fmt: skip
    command = ["bash", str(SCRIPTS / script), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.splitlines()


def test_pretrain_begins_a_run_and_then_resumes_it(tmp_path: Path) -> None:
    begun = commands_of("pretrain.sbatch", tmp_path, "--train.epochs", "3", DATA="/data/x", RECIPE="folder")
    assert begun == ["moco pretrain --recipe folder --data /data/x --out runs/a --train.epochs 3"]
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / "runs/a/config.yaml").write_text("")
    assert commands_of("pretrain.sbatch", tmp_path) == ["moco pretrain --resume runs/a"]


def test_linear_and_evaluate(tmp_path: Path) -> None:
    assert commands_of("linear.sbatch", tmp_path, "--protocol", "sgd") == ["moco linear runs/a --protocol sgd"]
    evaluated = commands_of("evaluate.sbatch", tmp_path, OUT="runs/b")
    assert evaluated == ["moco evaluate runs/b", "moco report runs/b"]


@pytest.mark.parametrize("script", ["pretrain.sbatch", "linear.sbatch", "evaluate.sbatch"])
def test_one_gpu_and_a_log_named_after_the_job(script: str) -> None:
    text = (SCRIPTS / script).read_text()
    assert "#SBATCH --gres=gpu:1\n" in text
    assert "#SBATCH --output=slurm-%x-%j.log\n" in text
