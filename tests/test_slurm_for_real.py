"""Jobs on a real Slurm: stopped in every way there is, the run ends in the bits of one that was never stopped."""

from __future__ import annotations

import csv
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from moco import checkpoint
from moco.runs.slurm_options import SlurmOptions
from moco.runs.submit import submit
from tests import cluster as slurm
from tests.cluster import Cluster
from tests.conftest import SMALL

EPOCHS = 30  # of three steps
OPTIONS = [
    *SMALL, f"--train.epochs={EPOCHS}", "--model.bn_splits=2", "--runtime.threads=1",
    "--checkpoint.every_minutes=0.005",
    f"--monitor.every_epochs={EPOCHS}", "--monitor.baseline=false",
]  # fmt: skip
JOB = ["--slurm.cpus=1", "--slurm.gpus=0"]
TIMES = {"seconds", "samples_per_s"}
SCRIPTS = Path(__file__).parents[1] / "slurm"
# Half a minute each on two quiet cores, most of it Python's start and Slurm's patience.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if (reason := slurm.why_not()) is not None:
        pytest.skip(reason)
    with slurm.started() as made:
        yield made


@pytest.fixture(scope="module")
def whole(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    words = [*moco("pretrain"), *OPTIONS, "--data", str(labelled), "--out", str(out)]
    subprocess.run(words, check=True, capture_output=True)
    return out


def moco(*words: str) -> list[str]:
    return [sys.executable, "-m", "moco", *words]


def submitted(cluster: Cluster, folder: Path, *words: str) -> list[str]:
    """The numbers of the jobs that `moco submit` made, their logs in `folder`."""
    command = moco("submit", *words, *JOB, f"--slurm.log={folder}/%x-%j.log")
    done = subprocess.run(command, capture_output=True, text=True, env=cluster.environment, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split()[1] for line in done.stdout.splitlines() if line.startswith("job ")]


def held_at_work(cluster: Cluster, run: Path) -> int:
    """The process that trains in `run`, stopped (SIGSTOP) once it has saved some steps: so nothing is over too soon."""
    cluster.wait_for(lambda: any(run.glob("checkpoints/step-*.pt")), 120, f"a checkpoint in {run}")
    for pid in cluster.processes():
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"moco" in words and str(run).encode() in words and b"srun" not in words[0]:
                os.kill(pid, signal.SIGSTOP)
                return pid
    raise AssertionError(f"nothing trains in {run}\n{cluster.logs()}")


def go_on(pid: int) -> None:
    """The end of `held_at_work`, where Slurm hasn't made one by itself."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def rows(run: Path) -> list[dict[str, str]]:
    table = csv.DictReader((run / "metrics.csv").read_text().splitlines())
    return [{k: v for k, v in row.items() if k not in TIMES} for row in table]


def assert_same(run: Path, whole: Path) -> None:
    """Weights, queue, the optimizer's state and every row: to the bit."""
    expected, found = (checkpoint.load(place / "checkpoints" / "last.pt") for place in (whole, run))
    assert expected["step"] == found["step"] == 3 * EPOCHS
    assert [n for n, t in expected["model"].items() if not torch.equal(t, found["model"][n])] == []
    momenta = [content["optimizer"]["state"] for content in (expected, found)]
    assert all(torch.equal(momenta[0][i]["momentum_buffer"], momenta[1][i]["momentum_buffer"]) for i in momenta[0])
    assert rows(run) == rows(whole)


def log_of(folder: Path, job: str) -> str:
    return next(folder.glob(f"*-{job}.log")).read_text()


def test_the_time_limit_strikes_and_the_run_queues_itself_again(
    cluster: Cluster, labelled: Path, whole: Path, tmp_path: Path
) -> None:
    """Slurm counts in minutes and looks every 30 s: the limit is lowered, and the run held, until the signal came."""
    run = tmp_path / "run"
    words = ["pretrain", *OPTIONS, "--data", str(labelled), "--out", str(run), "--then", "linear,evaluate"]
    first, linear, evaluate = submitted(cluster, tmp_path, *words, "--slurm.time=60", "--slurm.save_s=60")
    pid = held_at_work(cluster, run)
    minutes, rest = (int(part) for part in cluster.facts(first)["RunTime"].split(":")[1:])
    cluster.ask("scontrol", "update", f"JobId={first}", f"TimeLimit={minutes + (1 if rest < 25 else 2)}")
    told = f"STEP {first}.0 ON"
    cluster.wait_for(lambda: told in log_of(tmp_path, first), 90, "the signal before the time limit")
    go_on(pid)
    cluster.wait(first, "PENDING", 60)
    cluster.ask("scontrol", "update", f"JobId={first}", "TimeLimit=60")
    facts = cluster.wait(first, "COMPLETED", 120)
    assert facts["Restarts"] == "1"
    log = log_of(tmp_path, first)
    assert "SIGTERM: stopped and saved at step" in log
    assert "resuming at step" in log
    assert_same(run, whole)
    for job in (linear, evaluate):  # they have waited for the end, not for the interruption
        cluster.wait(job, "COMPLETED", 120)
    assert (run / "evaluation.json").is_file()


def test_two_processes_on_a_node_stop_and_go_on_together_as_one_would(
    cluster: Cluster, labelled: Path, whole: Path, tmp_path: Path
) -> None:
    """The signal that the time limit sends, to both. None is in the way of the other's end, which would not be a 75."""
    run = tmp_path / "run"
    words = ["pretrain", *OPTIONS, "--data", str(labelled), "--out", str(run)]
    (job,) = submitted(cluster, tmp_path, *words, "--slurm.tasks=2")
    pid = held_at_work(cluster, run)
    cluster.ask("scancel", "--signal=TERM", job)
    go_on(pid)
    cluster.wait_for(lambda: cluster.facts(job)["Restarts"] == "1", 90, f"job {job} in the queue again")
    cluster.wait(job, "COMPLETED", 240)
    assert log_of(tmp_path, job).count("stopped and saved at step") == 1  # one speaks for both
    assert_same(run, whole)


def test_queued_again_by_hand_with_the_shipped_script(
    cluster: Cluster, labelled: Path, whole: Path, tmp_path: Path
) -> None:
    run, program = tmp_path / "run", tmp_path / "moco"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(moco())} "$@"\n')
    program.chmod(0o755)
    given = ["--cpus-per-task=1", "--mem=0", f"--output={tmp_path}/%x-%j.log", f"--export=ALL,MOCO={program}"]
    options = [*OPTIONS, "--data", str(labelled), "--out", str(run)]
    job = cluster.ask("sbatch", "--parsable", *given, str(SCRIPTS / "pretrain.sbatch"), *options).strip()
    held_at_work(cluster, run)
    cluster.ask("scontrol", "requeue", job)
    facts = cluster.wait(job, "COMPLETED", 120)
    assert facts["Restarts"] == "1"
    assert "SIGTERM: stopped and saved at step" in log_of(tmp_path, job)
    assert_same(run, whole)


def test_scancel_stops_cleanly_and_the_same_command_goes_on(
    cluster: Cluster, labelled: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ["pretrain", *OPTIONS, "--data", str(labelled), "--out", str(run)]
    job, then = submitted(cluster, tmp_path, *words, "--then", "linear")
    held_at_work(cluster, run)
    cluster.ask("scancel", job)
    cluster.wait(job, "CANCELLED", 60)
    cluster.wait(then, "CANCELLED", 30)  # what waits for it goes with it
    cluster.wait_for(lambda: not cluster.processes(), 30, "the job's end")
    facts = cluster.facts(job)
    assert (facts["JobState"], facts["Restarts"]) == ("CANCELLED", "0")
    assert "SIGTERM: stopped and saved at step" in log_of(tmp_path, job)
    assert checkpoint.load(run / "checkpoints" / "last.pt")["step"] < 3 * EPOCHS
    (again,) = submitted(cluster, tmp_path, *words)
    cluster.wait(again, "COMPLETED", 120)
    assert_same(run, whole)


def test_the_nodes_daemon_dies_and_the_job_doesnt_mind(
    cluster: Cluster, labelled: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (job,) = submitted(cluster, tmp_path, "pretrain", *OPTIONS, "--data", str(labelled), "--out", str(run))
    pid = held_at_work(cluster, run)
    cluster.kill_node(with_jobs=False)
    cluster.start_node()
    go_on(pid)
    assert cluster.wait(job, "COMPLETED", 120)["Restarts"] == "0"
    assert_same(run, whole)


def test_the_node_dies_with_all_that_runs_there_and_comes_back(
    cluster: Cluster, labelled: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (job,) = submitted(cluster, tmp_path, "pretrain", *OPTIONS, "--data", str(labelled), "--out", str(run))
    held_at_work(cluster, run)
    cluster.kill_node(with_jobs=True)
    found = checkpoint.newest(run / "checkpoints")
    assert found is not None and found.content["step"] < 3 * EPOCHS
    # A job that began less than 20 s ago may not have reached its node yet, so its absence there says nothing to Slurm.
    young = ("00:00:0", "00:00:1", "00:00:20")
    cluster.wait_for(lambda: not cluster.facts(job)["RunTime"].startswith(young), 60, "Slurm to miss the job")
    cluster.start_node()
    assert cluster.wait(job, "COMPLETED", 120)["Restarts"] == "1"
    assert "resuming at step" in log_of(tmp_path, job)
    assert_same(run, whole)


STAND_IN = """\
#!/bin/bash
echo "restart ${SLURM_RESTART_COUNT:-0}, $SLURM_STEP_NUM_TASKS tasks: $*"
case "$*" in
*--resume* | linear*) ;;
*)
    mkdir -p "${@: -1}" && touch "${@: -1}/config.yaml"
    [[ "$*" == *seed=0* ]] && exit 0
    trap 'sleep 1; exit 75' TERM
    while true; do sleep 0.1; done
    ;;
esac
"""


def test_a_sweep_is_an_array_whose_elements_are_queued_again_and_followed_each_by_itself(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Slurm makes of the scripts, with a program of three lines in moco's place.

    The element that is interrupted is the last: its number is the array's, whose other element is done and stays so.
    """
    (tmp_path / "program").write_text(STAND_IN)
    (tmp_path / "program").chmod(0o755)
    monkeypatch.setattr("moco.runs.submit.PROGRAM", (str(tmp_path / "program"),))
    for name in [*os.environ, *cluster.environment]:
        if name.startswith(("SLURM_", "SBATCH_")):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    monkeypatch.chdir(tmp_path)
    options = SlurmOptions(gpus=1, cpus=1, log=str(tmp_path / "%x-%a.log"))
    array, _ = submit(["pretrain"], "sweep", options, ["linear"], ["seed=0,1"])
    cluster.wait_for((tmp_path / "moco-linear-0.log").exists, 60, "what follows the first element")
    cluster.wait_for((tmp_path / "sweep/seed=1/config.yaml").exists, 60, "the second element")
    cluster.ask("scancel", "--signal=TERM", f"{array.number}_1")
    cluster.wait_for(lambda: not cluster.ask("squeue", "--noheader"), 90, "the end of all jobs")
    logs = {path.stem: path.read_text().splitlines() for path in tmp_path.glob("*.log")}
    assert logs["moco-pretrain-0"] == ["restart 0, 1 tasks: pretrain --seed=0 --out sweep/seed=0"]
    assert logs["moco-pretrain-1"][0] == "restart 0, 1 tasks: pretrain --seed=1 --out sweep/seed=1"
    assert logs["moco-pretrain-1"][-1] == "restart 1, 1 tasks: pretrain --resume sweep/seed=1"
    assert logs["moco-linear-1"] == ["restart 0, 1 tasks: linear sweep/seed=1"]
