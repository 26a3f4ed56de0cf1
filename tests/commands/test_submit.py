"""`moco submit` on the command line: what it checks before anything is sent, and what it prints."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.conftest import SMALL

from moco.cli import main
from moco.commands.submit import split
from moco.config import Config
from moco.files import write_json
from moco.fresh_run import created
from moco.runs.finetune_options import FinetuneOptions, Tuning
from moco.runs.recipe import recipe

WORDS = ["submit", "pretrain", "--recipe", "shapes", "--data", "shapes"]


def test_a_dry_run_prints_the_scripts_and_needs_neither_slurm_nor_torch(tmp_path: Path) -> None:
    words = [*WORDS, "--then=linear", "--slurm.time", "4:00:00", "--out", "runs/a", "--slurm.gpus=8", "--dry-run"]
    code = (
        "import sys; from moco.cli import main; code = main(sys.argv[1:]);"
        "sys.exit(99 if 'torch' in sys.modules else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, second = (f"#!/bin/bash{text}" for text in done.stdout.split("#!/bin/bash")[1:])
    assert "#SBATCH --time=4:00:00\n" in first and "#SBATCH --gres=gpu:8\n" in first
    assert "pretrain --recipe shapes --data shapes --out" in first
    assert "moco linear" in second and "#SBATCH --gres=gpu:1\n" in second
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["submit"], "moco submit what? valid: evaluate, finetune, labels, linear, pretrain"),
        (["submit", "pretrian"], "did you mean pretrain?"),
        ([*WORDS], "--out is missing"),
        ([*WORDS, "--out", "runs/a", "--overwrite"], "would replace its own run"),
        ([*WORDS, "--out=runs/a", "--optimzer.lr=1"], "did you mean --optimizer.lr"),
        ([*WORDS, "--out=runs/a", "--train.epochs=0"], "train.epochs is 0"),
        ([*WORDS, "--out=runs/a", "--slurm.tme=4"], "did you mean --slurm.time"),
        ([*WORDS, "--out=runs/a", "--slurm.time=4h"], "--slurm.time is '4h'"),
        ([*WORDS, "--out=runs/a", "--slurm.time"], "--slurm.time needs a value"),
        ([*WORDS, "--out=runs/a", "--then=linaer"], "did you mean linear"),
        ([*WORDS, "--out=runs/a", "--sweep", "seed=1,x"], "--seed"),
        ([*WORDS, "--out=runs/a", "--sweep", "optimizer.l=1"], "did you mean --optimizer.lr"),
        ([*WORDS, "--out=runs/a", "--sweep=seed=1", "--resume=runs/b"], "leave out --resume"),
        (["submit", "pretrain", "--out=runs/a"], "--data is missing"),
        (["submit", "pretrain", "--resume=runs/none"], "no such folder"),
        (["submit", "linear", "runs/none"], "no such folder"),
        (["submit", "linear", ".", "--sweep=seed=1,2"], "--sweep is for pretrain"),
        (["submit", "finetune"], "which run?"),
        (["submit", "finetune", "runs/none"], "no such folder"),
        (["submit", "finetune", ".", "--lr=0"], "--lr is 0.0, give a number above 0"),
        (["submit", "labels", "runs/none"], "no such folder"),
        (["submit", "labels", ".", "--draws=0"], "--draws is 0"),
    ],
)
def test_a_mistake_is_answered_before_anything_is_sent(
    words: list[str], answer: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--dry-run"] if words[-1] != "--slurm.time" else words) == 2
    said = capsys.readouterr()
    assert answer in said.err and said.err.count("\n") == 1
    assert said.out == ""


def test_data_that_is_elsewhere_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["submit", "pretrain", "--recipe=shapes", f"--out={tmp_path / 'runs'}", "--sweep=seed=1,2", "--dry-run"]
    assert main([*words, f"--data={tmp_path / 'scratch'}"]) == 0
    assert (
        capsys.readouterr().err == f"--data {tmp_path / 'scratch'} isn't here: the job has to find it where it runs\n"
    )
    for here in (str(tmp_path), "imagenette", "s3://bucket/store"):
        assert main([*words, f"--data={here}"]) == 0
        assert capsys.readouterr().err == ""


def begun(run: Path, config: Config) -> None:
    with created(run) as made:
        made.write_config(config, {})


def test_a_run_that_is_there_is_gone_on_with_only_if_it_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    begun(out, recipe("shapes", data=str(tmp_path / "moved"), **{"optimizer.lr": 0.05}))
    words = [*WORDS, "--out", str(out), "--dry-run"]
    assert main([*words, "--optimizer.lr=0.05"]) == 0
    assert main(words) == 2
    assert "began otherwise (optimizer.lr was 0.05, now 0.01)" in capsys.readouterr().err
    # Without a recipe what is open follows from the images, where they are: only what is typed is compared.
    assert main(["submit", "pretrain", "--data=x", "--out", str(out), "--dry-run"]) == 0
    assert main(["submit", "pretrain", "--data=x", "--seed=3", "--out", str(out), "--dry-run"]) == 2
    assert "seed was 0, now 3" in capsys.readouterr().err
    (tmp_path / "notes").write_text("")
    assert main([*WORDS, "--out", str(tmp_path), "--dry-run"]) == 2
    assert "holds other files" in capsys.readouterr().err


def test_a_fine_tuning_is_a_job_that_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    begun(run, recipe("shapes", data="shapes"))
    words = ["submit", "finetune", str(run), "--labels=10%", "--dry-run"]
    assert main(words) == 0
    script = capsys.readouterr().out
    place = run / "finetune-10pct"
    assert f'run={place}\nif [ -f "$run/finetune.json" ]; then\n' in script
    assert 'moco finetune --resume "$run"' in script
    assert f'moco finetune {run} --labels=10% --out "$run"' in script.replace("'--labels=10%'", "--labels=10%")
    assert "scontrol requeue" in script and "#SBATCH --signal=TERM@120" in script
    assert main([*words, "--out", str(tmp_path / "there")]) == 0
    assert f"run={tmp_path / 'there'}\n" in capsys.readouterr().out
    for more, answer in (
        (["--overwrite"], "would replace its own run"),
        (["--then=linear"], "send the fine-tuning by"),
    ):
        assert main([*words, *more]) == 2
        assert answer in capsys.readouterr().err

    options = FinetuneOptions(labels="10%").decided("run", 100, 100)
    record = Tuning(str(run), "last", "run", recipe("shapes", data="shapes"), None, options)
    place.mkdir()
    write_json(place / "finetune.json", record.as_dict())
    assert main(words) == 0  # the same, with what was left open decided
    assert main([*words, "--epochs=7", "--from=scratch"]) == 0  # another place
    capsys.readouterr()
    assert main([*words, "--epochs=7", f"--out={place}"]) == 2
    assert f"began otherwise (epochs was {options.epochs}, now 7): give another --out" in capsys.readouterr().err
    assert main([*words, "--data=other"]) == 2
    assert "began otherwise (data was the run's, now other)" in capsys.readouterr().err
    few = FinetuneOptions(labels="10%").decided("run", 10, 100)  # of fewer images than a batch
    write_json(place / "finetune.json", replace(record, options=few).as_dict())
    assert main(words) == 0
    assert main(["submit", "finetune", "--resume=runs/typo", "--dry-run"]) == 2
    assert "no directory of `moco finetune`" in capsys.readouterr().err
    assert main(["submit", "finetune", f"--resume={place}", "--dry-run"]) == 0
    assert f"moco finetune --resume={place}\n" in capsys.readouterr().out.replace(")", "")


def test_a_measurement_by_labels_is_a_job_of_one_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun(tmp_path / "run", recipe("shapes", data="shapes"))
    words = ["submit", "labels", str(tmp_path / "run"), "--draws=2", "--then=report", "--dry-run"]
    assert main(words) == 0
    script = capsys.readouterr().out
    assert "-m moco labels" in script and "-m moco report" in script and "scontrol requeue" not in script
    assert main([*words, "--slurm.gpus=4"]) == 2
    assert "labels is one process: give --slurm.gpus 1 or 0" in capsys.readouterr().err


def test_of_a_sweep_every_run_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun(tmp_path / "sweep" / "seed=1", recipe("shapes", data="shapes", seed=7))
    assert main([*WORDS, "--out", str(tmp_path / "sweep"), "--sweep", "seed=0,1", "--dry-run"]) == 2
    assert "seed=1 holds a run that began otherwise (seed was 7, now 1)" in capsys.readouterr().err


def test_own_options_are_told_from_the_submitted_commands() -> None:
    own, others = split(["pretrain", "--seed", "1", "--slurm.extra", "--mail-type=END", "--local", "--sweep=seed=1"])
    assert own == ["--slurm.extra=--mail-type=END", "--local", "--sweep=seed=1"]
    assert others == ["pretrain", "--seed", "1"]


def test_locally_it_trains_and_a_signal_stops_it_saved(
    labelled: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = [*SMALL, "--train.epochs=2000", "--monitor.every_epochs=2000", "--monitor.baseline=false"]
    words = ["submit", "pretrain", *options, "--data", str(labelled), "--out", str(out), "--then=linear", "--local"]
    waiting = f"until [ -e {out}/metrics.csv ]; do sleep 0.1; done; kill -TERM {os.getpid()}"
    with subprocess.Popen(["sh", "-c", waiting]) as stopper:
        assert main(words) == 75
        assert stopper.wait(10) == 0
    said = capfd.readouterr().err
    assert "SIGTERM: stopped and saved at step" in said
    assert f"moco: SIGTERM in {out}: the same command goes on from there" in said
    assert any((out / "checkpoints").glob("step-*.pt")) and not (out / "linear").exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
