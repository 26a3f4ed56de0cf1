"""Jobs: planned, then sent to Slurm, or done one after the other on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from moco.config import Config
from moco.config_check import flat
from moco.console import say
from moco.data.folder import anchored
from moco.errors import EXIT_INTERRUPTED, Interrupted, TrainingFailed, UserError, nearest
from moco.fresh_run import check_free
from moco.rundir import RunDir
from moco.runs.finetune_options import FinetuneOptions, open_tuning
from moco.runs.slurm_options import SlurmOptions
from moco.runs.slurm_script import OPTIONS, RECORDS, RUN, Job, Place
from moco.runs.sweep import combinations
from moco.train.interrupt import StopSignals
from moco.words import given, named

THEN = ("linear", "evaluate", "report")  # what can follow a training, in this order
PROGRAM = (sys.executable, "-m", "moco")
ONE_PROCESS = ("finetune", "labels")
GLANCE_S = 0.1  # between two looks at a process and at our own signals


@dataclass(frozen=True)
class Submitted:
    """A job that Slurm has taken: its number, its name, and the directories of its runs."""

    number: str
    name: str
    runs: tuple[str, ...]


def submit(
    words: Sequence[str],
    out: str | os.PathLike[str],
    slurm: SlurmOptions | None = None,
    then: Sequence[str] = (),
    sweep: Sequence[str] = (),
) -> list[Submitted]:
    """Send the command line `words`, as typed after `moco`, to Slurm, and return the jobs in their order.

    `moco submit` has checked the words' options before; this function takes them as they are.

    Args:
        words: `pretrain` or `finetune` and its options without `--out`; or with `--resume`; or `linear RUN` and the
            like.
        out: the directory of the run or the fine-tuning; of a sweep, the folder that its runs are made in.
        slurm: what each job is given; what follows gets one task and one GPU at most.
        then: of `linear`, `evaluate`, `report`: each waits for the one before it to succeed.
        sweep: `OPTION=VALUE,VALUE`: one run for each combination, as a job array.

    Raises:
        UserError: values that can't be right, no Slurm here, or what Slurm says against it (nothing stays queued then).
    """
    return send(plan(words, out, slurm or SlurmOptions(), then, sweep))


def plan(
    words: Sequence[str],
    out: str | os.PathLike[str],
    slurm: SlurmOptions,
    then: Sequence[str] = (),
    sweep: Sequence[str] = (),
) -> list[Job]:
    """The jobs of `submit`, in the order in which each waits for the one before. Raises `UserError`; starts nothing."""
    slurm.checked()
    for name in then:
        if name not in THEN:
            raise UserError(f"--then {name}: {nearest(name, THEN)}")
    command, folder = words[0], str(Path.cwd())
    if "evaluate" in then and "linear" not in then and command != "linear":
        raise UserError("--then evaluate needs the classifier that linear makes: give --then linear,evaluate")
    if command == "finetune" and then:
        raise UserError("--then follows what makes a run's backbone or measures it: send the fine-tuning by itself")
    if command in ONE_PROCESS and slurm.nodes * slurm.tasks_per_node > 1:
        raise UserError(f"{command} is one process: give --slurm.gpus 1 or 0, --slurm.nodes 1, and no --slurm.tasks")
    begin, again = (*PROGRAM, *words), None
    if command in RECORDS and "resume" not in named(words):
        begin += (*([OPTIONS] if sweep else []), "--out", RUN)
        again = (*PROGRAM, command, "--resume", RUN)
    root = Path(out)
    places = tuple(Place(str(root / one.name), one.options) for one in combinations(sweep))
    first = Job(command, places, begin, again, slurm, folder, bool(sweep))
    return [first, *(_following(name, first) for name in THEN if name in then)]


def _following(name: str, job: Job) -> Job:
    """The job that does `name` with each run of `job`, and with the data that was given to a job that trains no run."""
    slurm = job.slurm
    own = replace(
        slurm,
        nodes=1,
        tasks=1,
        gpus=0 if name == "report" else min(slurm.gpus, 1),
        gpu_type=None if name == "report" else slurm.gpu_type,
        name=None if slurm.name is None else f"{slurm.name}-{name}",
    )
    places = tuple(Place(place.out) for place in job.places)
    data = () if job.command in RECORDS else given("--data", job.begin)
    return Job(name, places, (*PROGRAM, name, RUN, *data), None, own, job.folder, job.array)


def changed(out: str, asked: Config, given: Collection[str] | None = None) -> list[str]:
    """What the run at `out` began with that isn't what is `asked` now, in phrases; empty where there is no run.

    `data` may have moved, and what is left open was decided when the run began. With `given` only options of those
    names are compared. Raises `UserError` for a folder that no run can be made in.
    """
    run = RunDir(Path(out))
    if not run.has_begun():
        check_free(out)
        return []
    before, now = flat(RunDir.open(out).read_config()), flat(asked)
    return [
        f"{name} was {before[name]}, now {now[name]}"
        for name in now
        if name != "data" and now[name] != before[name] and not _open(name, now[name])
        if given is None or name in given
    ]


def changed_tuning(out: str, run: str, source: str, which: str, data: str | None, asked: FinetuneOptions) -> list[str]:
    """What the fine-tuning at `out` began with that isn't what is asked now, in phrases; empty where there is none.

    What is left open was decided when it began. Raises `UserError` for a folder that none can be made in.
    """
    place = RunDir(Path(out))
    if not place.finetune_file.is_file():
        check_free(out, tuning=True)
        return []
    before = open_tuning(out)[1]
    pairs: list[tuple[str, Any, Any]] = [("run", before.run, str(Path(run).resolve())), ("from", before.source, source)]
    pairs += [
        ("checkpoint", before.which, which),
        ("data", before.data or "the run's", anchored(data) if data else "the run's"),
    ]
    pairs += [(f.name, getattr(before.options, f.name), getattr(asked, f.name)) for f in fields(asked)]
    if before.options.batch_size < asked.batch_size:  # there were fewer images
        pairs = [pair for pair in pairs if pair[0] != "batch_size"]
    return [f"{name} was {old}, now {new}" for name, old, new in pairs if new is not None and new != old]


def _open(name: str, value: Any) -> bool:
    """Whether this leaves to the run what it is: the run has decided it, and stored what."""
    return value is None or (name, value) == ("store.format", "auto")


def send(jobs: Sequence[Job]) -> list[Submitted]:
    """Submit `jobs`, each to wait for the one before. Where Slurm won't take one, none stays: `UserError` says why."""
    if shutil.which("sbatch") is None:
        raise UserError(
            "there is no sbatch here: submit on a login node of a Slurm cluster, look at the script with --dry-run, "
            "or work on this machine with --local"
        )
    sent: list[Submitted] = []
    for job in jobs:
        after = "aftercorr" if job.array else "afterok"  # of an array: each element for its own
        waits = [f"--dependency={after}:{sent[-1].number}", "--kill-on-invalid-dep=yes"] if sent else []
        words = ["sbatch", "--parsable", *waits]
        done = subprocess.run(words, input=job.script(), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            if sent:
                subprocess.run(["scancel", *(one.number for one in sent)], check=False)
            told = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            raise UserError(f"{job.command} was not submitted{', nor anything else' if sent else ''}: {told}")
        number = done.stdout.strip().split(";")[0]
        sent.append(Submitted(number, job.name, tuple(place.out for place in job.places)))
    return sent


def work_here(jobs: Sequence[Job]) -> None:
    """Do what `jobs` are to do on this machine, run by run, one command after the other.

    A run that is there is gone on with. A run that fails is said, and the next one begun.

    Raises:
        Interrupted: after a stop signal, once the command at work has saved; the same call goes on.
        TrainingFailed: at the end, where runs failed.
    """
    failed: list[str] = []
    count = len(jobs[0].places)
    with StopSignals() as signals:
        for number in range(count):
            out = jobs[0].places[number].out
            say(f"run {number + 1} of {count}: {out}")
            for job in jobs:
                code = _finished(_words(job, number), signals)
                if signals.stop is not None or code == EXIT_INTERRUPTED:
                    raise Interrupted(f"{signals.stop or 'stopped'} in {out}: the same command goes on from there")
                if code != 0:
                    say(f"{out}: {job.command} failed, exit code {code}")
                    failed.append(out)
                    break
    if failed:
        raise TrainingFailed(f"{len(failed)} of {count} runs failed: {', '.join(failed)}")


def _words(job: Job, number: int) -> tuple[str, ...]:
    """The command line of one of a job's runs, as things stand now."""
    place = job.places[number]
    if job.again is not None and (Path(place.out) / RECORDS[job.command]).is_file():
        return place.filled(job.again)
    return place.filled(job.begin)


def _finished(words: Sequence[str], signals: StopSignals) -> int:
    """The exit code of a command. It has a session of its own, so that each of our signals reaches it once."""
    with subprocess.Popen(words, start_new_session=True) as process:
        told: Any = None
        while True:
            if signals.stop is not None and told is None:
                told = signal.Signals[signals.stop]
                process.send_signal(told)
            if signals.save and hasattr(signal, "SIGUSR1"):
                signals.save = False
                process.send_signal(signal.SIGUSR1)
            try:
                return process.wait(GLANCE_S)
            except subprocess.TimeoutExpired:
                continue
