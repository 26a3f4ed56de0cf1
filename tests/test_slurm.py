"""The job scripts: what they would run, with `srun` replaced by a stand-in (test_slurm_for_real.py has a Slurm)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "slurm"


def run(script: str, folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script, where `srun` and `scontrol` say what they were asked, and `moco` ends in $CODE."""
    stand_in = folder / "bin"
    stand_in.mkdir(exist_ok=True)
    for name, text in (
        ("srun", '#!/bin/sh\necho "$@"\nexit ${CODE:-0}\n'),
        ("scontrol", '#!/bin/sh\necho scontrol "$@"\n'),
    ):
        (stand_in / name).write_text(text)
        (stand_in / name).chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{stand_in}:{os.environ['PATH']}", "MOCO": "moco", "SLURM_JOB_ID": "7",
        "SLURM_SUBMIT_DIR": str(folder), **variables,
    }  # fmt: skip
    command = ["bash", str(SCRIPTS / script), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def commands_of(script: str, folder: Path, *options: str, **variables: str) -> list[str]:
    """The command lines that the script starts; it ends well."""
    done = run(script, folder, *options, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


OPTIONS = ["--recipe", "folder", "--data", "/data/x y", "--out", "runs/b"]


def test_pretrain_takes_its_options_and_resumes_what_a_restarted_job_began(tmp_path: Path) -> None:
    begun = ["moco pretrain --recipe folder --data /data/x y --out runs/b"]
    assert commands_of("pretrain.sbatch", tmp_path, *OPTIONS) == begun
    assert commands_of("pretrain.sbatch", tmp_path, *OPTIONS, SLURM_RESTART_COUNT="1") == begun  # nothing is there yet
    (tmp_path / "runs/b").mkdir(parents=True)
    (tmp_path / "runs/b/config.yaml").write_text("")
    assert commands_of("pretrain.sbatch", tmp_path, *OPTIONS) == begun  # somebody else's: moco says so
    resumed = ["moco pretrain --resume runs/b"]
    assert commands_of("pretrain.sbatch", tmp_path, *OPTIONS, SLURM_RESTART_COUNT="1") == resumed
    assert commands_of("pretrain.sbatch", tmp_path, "--data=x", "--out=runs/b", SLURM_RESTART_COUNT="2") == resumed
    assert commands_of("pretrain.sbatch", tmp_path, "--resume", "runs/b") == resumed


@pytest.mark.parametrize(("code", "requeued"), [("75", True), ("2", False), ("1", False), ("143", False)])
def test_only_a_run_that_was_interrupted_and_saved_is_queued_again(tmp_path: Path, code: str, requeued: bool) -> None:
    done = run("pretrain.sbatch", tmp_path, *OPTIONS, CODE=code)
    assert done.returncode == int(code)
    assert ("scontrol requeue 7" in done.stdout) is requeued


@pytest.mark.parametrize("options", [["--data", "x"], [*OPTIONS, "--overwrite"]])
def test_a_job_that_could_harm_its_own_run_is_not_begun(tmp_path: Path, options: list[str]) -> None:
    done = run("pretrain.sbatch", tmp_path, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert "queued again" in done.stderr


def test_without_options_they_are_the_readmes_commands(tmp_path: Path) -> None:
    begun = commands_of("pretrain.sbatch", tmp_path)
    assert begun == ["moco pretrain --recipe imagenette --data data/imagenette2 --out runs/a"]
    assert commands_of("linear.sbatch", tmp_path) == ["moco linear runs/a"]
    assert commands_of("linear.sbatch", tmp_path, "runs/b", "--protocol=sgd") == ["moco linear runs/b --protocol=sgd"]
    assert commands_of("evaluate.sbatch", tmp_path, "runs/b") == ["moco evaluate runs/b", "moco report runs/b"]


@pytest.mark.parametrize("script", ["pretrain.sbatch", "linear.sbatch", "evaluate.sbatch"])
def test_one_gpu_and_a_log_named_after_the_job_that_a_restart_adds_to(script: str) -> None:
    lines = (SCRIPTS / script).read_text().splitlines()
    asked = ("--gres=gpu:1", "--output=slurm-%x-%j.log", "--open-mode=append", "--requeue")
    assert [f"#SBATCH {words}" for words in asked if f"#SBATCH {words}" not in lines] == []
