"""What is submitted: the scripts as text, the order of jobs, the names of a sweep's runs; and work without Slurm."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.conftest import SMALL

import moco
from moco.errors import TrainingFailed, UserError
from moco.runs.slurm_options import SlurmOptions, seconds
from moco.runs.slurm_script import Job
from moco.runs.submit import changed, plan, submit, work_here
from moco.runs.sweep import combinations

GOLDENS = Path(__file__).parent / "goldens"
WORDS = ["pretrain", "--recipe", "imagenette", "--data", "/data/im net"]


def golden(jobs: list[Job]) -> str:
    """The scripts, without what is this machine's own."""
    text = "\n".join(replace(job, folder="/home/me/work").script() for job in jobs)
    return text.replace(sys.executable, "/home/me/.venv/bin/python")


@pytest.mark.parametrize(
    ("name", "options", "then", "sweep"),
    [
        ("pretrain", SlurmOptions(time="4:00:00", gpus=8, nodes=2, gpu_type="a100", mem="200G"), ("linear",), ()),
        (
            "sweep",
            SlurmOptions(
                time="60", gpus=1, partition="short", account="me", qos="low", constraint="a100|h100", cpus=4,
                at_once=2, name="try", setup="module load cuda/12", extra="--mail-type=END '--comment=two words'",
            ),
            ("evaluate", "linear", "report"),
            ("optimizer.lr=0.03,0.06", "seed=0,1,2"),
        ),
        ("processor", SlurmOptions(gpus=0, cpus=16), (), ()),
    ],
)  # fmt: skip
def test_a_script_is_the_committed_one(
    name: str, options: SlurmOptions, then: tuple[str, ...], sweep: tuple[str, ...]
) -> None:
    found = golden(plan(WORDS, "runs/a", options, then, sweep))
    assert found == (GOLDENS / f"{name}.sbatch").read_text()
    assert subprocess.run(["bash", "-n"], input=found, text=True, check=False).returncode == 0


def test_what_is_typed_reaches_moco_as_it_was_typed(tmp_path: Path) -> None:
    """The shell that Slurm runs, with `srun` replaced by one that shows each argument."""
    nasty = ["--data", "/data/a b/$HOME/it's", '--store.cache="x"', "--views.pipeline=`v2`"]
    (tmp_path / "srun").write_text('#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done\n')
    (tmp_path / "srun").chmod(0o755)
    for sweep, out in (((), tmp_path / "a b"), (("model.backbone=timm/x,y;z",), tmp_path / "a b" / "backbone=y-z")):
        (job,) = plan(["pretrain", *nasty], tmp_path / "a b", SlurmOptions(), (), sweep)
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "1"}
        options = ["--model.backbone=y;z"] if sweep else []

        def asked(script: str = job.script(), environment: dict[str, str] = environment) -> list[str]:
            done = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=True, env=environment)
            return done.stdout.splitlines()[2:]

        assert asked() == [sys.executable, "-m", "moco", "pretrain", *nasty, *options, "--out", str(out)]
        out.mkdir(parents=True)
        (out / "config.yaml").write_text("")
        assert asked() == [sys.executable, "-m", "moco", "pretrain", "--resume", str(out)]


def test_resume_is_sent_as_it_is_and_other_commands_begin_anew() -> None:
    (job,) = plan(["pretrain", "--resume", "runs/a", "--train.epochs", "300"], "runs/a", SlurmOptions())
    assert "config.yaml" not in job.script() and "--signal=TERM@120" in job.script()
    assert "pretrain --resume runs/a --train.epochs 300)" in job.script()
    (job,) = plan(["linear", "runs/a", "--protocol=sgd"], "runs/a", SlurmOptions())
    assert "linear runs/a --protocol=sgd)" in job.script() and "scontrol" not in job.script()


def test_every_combination_has_a_name_that_says_what_it_is() -> None:
    found = combinations(["optimizer.lr=0.03,0.06", "views.jitter=[0.4,0.4,0.4,0.1],[0.2,0.2,0.2,0.1]"])
    assert [one.name for one in found[:2]] == ["lr=0.03_jitter=-0.4-0.4-0.4-0.1-", "lr=0.03_jitter=-0.2-0.2-0.2-0.1-"]
    assert found[3].options == ("--optimizer.lr=0.06", "--views.jitter=[0.2,0.2,0.2,0.1]")
    whole = combinations(["optimizer.momentum=0.8", "model.momentum=0.9"])
    assert whole[0].name == "optimizer.momentum=0.8_model.momentum=0.9"
    assert [(one.name, one.options) for one in combinations([])] == [("", ())]


@pytest.mark.parametrize(
    ("sweep", "answer"),
    [
        (["seed"], "OPTION=VALUE"),
        (["seed=1,,2"], "OPTION=VALUE"),
        (["seed=1", "seed=2"], "twice"),
        (["out=a,b"], "can't be swept"),
        (["seed=1,1"], "two runs called seed=1"),
        (["data=a/b,a-b"], "two runs called data=a-b"),
        (["seed=" + ",".join(map(str, range(1001)))], "1,001 runs"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(sweep: list[str], answer: str) -> None:
    with pytest.raises(UserError, match=answer):
        combinations(sweep)


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"time": "4h"}, "--slurm.time is '4h'"),
        ({"time": "0:30"}, "a minute"),
        ({"time": "2", "save_s": 120}, "leaves nothing"),
        ({"gpus": -1}, "--slurm.gpus is -1"),
        ({"gpus": 0, "gpu_type": "a100"}, "needs --slurm.gpus"),
        ({"mem": "64 GB"}, "--slurm.mem"),
        ({"partition": "a\nb"}, "one line"),
        ({"extra": "--comment='x"}, "--slurm.extra"),
    ],
)
def test_what_slurm_would_refuse_or_misread_is_refused_here(options: dict[str, object], answer: str) -> None:
    with pytest.raises(UserError, match=answer):
        SlurmOptions(**options).checked()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 5400), ("1:30", 90), ("4:00:00", 14400), ("2-12", 216000), ("1-0:30", 88200), ("1-1:1:1", 90061)],
)
def test_every_way_to_write_a_time_limit(text: str, expected: int) -> None:
    assert seconds(text) == expected


def test_what_follows_a_classification_of_other_data_looks_at_that_data() -> None:
    for words in (["--data", "other"], ["--data=other"]):
        _, evaluate, report = plan(["linear", "runs/a", *words], "runs/a", SlurmOptions(), ("evaluate", "report"))
        assert f'evaluate "$run" {" ".join(words)})' in evaluate.script()
        assert f'report "$run" {" ".join(words)})' in report.script()
    _, linear = plan(WORDS, "runs/a", SlurmOptions(), ("linear",))
    assert "--data" not in linear.script()


def test_what_follows_and_where_there_is_no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="did you mean linear"):
        plan(WORDS, "runs/a", SlurmOptions(), ("linaer",))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="no sbatch here"):
        submit(WORDS, "runs/a")


def test_nothing_stays_queued_where_a_job_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = tmp_path / "said"
    (tmp_path / "sbatch").write_text(
        f'#!/bin/sh\necho "$@" >> {said}\n'
        'case "$*" in *afterok*) echo "sbatch: error: no" >&2; exit 1 ;; esac\necho "7;there"\n'
    )
    (tmp_path / "scancel").write_text(f'#!/bin/sh\necho scancel "$@" >> {said}\n')
    for name in ("sbatch", "scancel"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UserError, match="linear was not submitted, nor anything else: sbatch: error: no"):
        submit(WORDS, "runs/a", then=["linear"])
    assert said.read_text().splitlines() == [
        "--parsable", "--parsable --dependency=afterok:7 --kill-on-invalid-dep=yes", "scancel 7",
    ]  # fmt: skip
    (job,) = submit(WORDS, "runs/a")
    assert (job.number, job.name, job.runs) == ("7", "moco-pretrain", ("runs/a",))


LOCAL = [*SMALL, "--train.epochs=2", "--monitor.baseline=false"]


def test_a_sweep_without_slurm_goes_on_and_says_what_failed(
    labelled: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The first of two runs diverges."""
    words = ["pretrain", *LOCAL, "--data", str(labelled)]
    jobs = plan(words, tmp_path / "sweep", SlurmOptions(), (), ["optimizer.lr=1e30,0.02"])
    with pytest.raises(TrainingFailed, match=r"1 of 2 runs failed: .*lr=1e30"):
        work_here(jobs)
    assert "lr=1e30: pretrain failed, exit code 1" in capfd.readouterr().err
    config = moco.open_run(tmp_path / "sweep" / "lr=0.02").config
    assert config.optimizer.lr == 0.02
    assert changed(tmp_path / "sweep" / "lr=0.02", config) == []
    as_typed = replace(config, store=replace(config.store, format="auto"))  # the run has decided it since
    assert config.store.format == "raw" and changed(tmp_path / "sweep" / "lr=0.02", as_typed) == []
    other = replace(config, seed=3)
    assert changed(tmp_path / "sweep" / "lr=0.02", other) == ["seed was 0, now 3"]
    assert changed(tmp_path / "sweep" / "lr=0.02", other, {"optimizer.lr"}) == []
    assert changed(tmp_path / "new", config) == []
