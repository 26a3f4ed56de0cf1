"""The text of a job's script: pure functions, held to committed goldens."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from moco.errors import EXIT_INTERRUPTED
from moco.rundir import RunDir
from moco.runs.slurm_options import SlurmOptions

# Stand in a command line for the run's directory, and for its own options in a sweep. No argument can hold a NUL.
RUN, OPTIONS = "\0run", "\0options"
# What saves before it is stopped and goes on from its own directory, by the file that says that it is there.
RECORDS = {"pretrain": RunDir(Path()).config_file.name, "finetune": RunDir(Path()).finetune_file.name}
WAIT_S = 60  # after the first process of a step has ended, for the others: a process that died ends all


@dataclass(frozen=True)
class Place:
    """One run's directory, and its own options (`--seed=1`) where it is one of a sweep."""

    out: str
    options: tuple[str, ...] = ()

    def filled(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """`words` with `RUN` and `OPTIONS` replaced."""
        return tuple(
            part for word in words for part in (self.options if word == OPTIONS else [word.replace(RUN, self.out)])
        )


@dataclass(frozen=True)
class Job:
    """One submission: a script for one run, or for all runs of a sweep as an array.

    Attributes:
        command: of moco, `pretrain` say.
        places: of its runs: one, or one for each element of the array.
        begin: the command line, with `RUN` and `OPTIONS`.
        again: the one that goes on where the run is there; None begins anew each time.
        slurm: what it is given.
        folder: absolute path that relative ones start from.
        array: whether it is one, if only of one element.
    """

    command: str
    places: tuple[Place, ...]
    begin: tuple[str, ...]
    again: tuple[str, ...] | None
    slurm: SlurmOptions
    folder: str
    array: bool = False

    @property
    def requeued(self) -> bool:
        """Whether it is queued again when it was interrupted with everything saved."""
        return self.command in RECORDS

    @property
    def name(self) -> str:
        """The job's name."""
        return self.slurm.name or f"moco-{self.command}"

    def script(self) -> str:
        """What sbatch is given."""
        setup = [] if self.slurm.setup is None else [f"{self.slurm.setup}\n"]
        end = _REQUEUING.replace(_NUMBER, _ELEMENT if self.array else _JOB) if self.requeued else _PLAIN
        return "\n".join([_directives(self), _SETTINGS, *setup, _moco(self), end])


# The number of an array's last element is the whole array's too: `scontrol requeue` would take all its elements.
_NUMBER, _JOB, _ELEMENT = "\0number", "$SLURM_JOB_ID", "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"

_SETTINGS = """\
set -uo pipefail
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # srun takes it from here since Slurm 22.05
"""

_PLAIN = """\
srun "${moco[@]}"
"""

# 75 of one process must not end the others, which may still be writing: no --kill-on-bad-exit.
_REQUEUING = f"""\
# Slurm has told the job itself to end (scancel, scontrol requeue, a preemption): it knows what becomes of it.
told=
trap 'told=yes' TERM

srun --kill-on-bad-exit=0 --wait={WAIT_S} "${{moco[@]}}"
status=$?

# The time is nearly up and everything is saved: the same job once more, from where it is.
if [ "$status" = {EXIT_INTERRUPTED} ] && [ -z "$told" ]; then
    scontrol requeue "{_NUMBER}"
fi
exit "$status"
"""


def _directives(job: Job) -> str:
    slurm = job.slurm
    gpus = f"gpu:{slurm.gpu_type}:{slurm.gpus}" if slurm.gpu_type is not None else f"gpu:{slurm.gpus}"
    limit = "" if slurm.at_once is None else f"%{slurm.at_once}"
    given: list[tuple[str, str | int | None]] = [
        ("job-name", job.name),
        ("chdir", job.folder),
        ("array", f"0-{len(job.places) - 1}{limit}" if job.array else None),
        ("partition", slurm.partition),
        ("account", slurm.account),
        ("qos", slurm.qos),
        ("constraint", slurm.constraint),
        ("nodes", slurm.nodes),
        ("ntasks-per-node", slurm.tasks_per_node),
        ("cpus-per-task", slurm.cpus),
        ("gres", gpus if slurm.gpus else None),
        ("mem", slurm.mem),
        ("time", slurm.time),
        ("signal", f"TERM@{slurm.save_s}" if job.requeued else None),
        ("open-mode", "append"),
        ("output", slurm.log),
    ]
    lines = [f"#SBATCH --{name}={shlex.quote(str(value))}" for name, value in given if value is not None]
    extra = [f"#SBATCH {shlex.quote(word)}" for word in shlex.split(slurm.extra or "")]
    return "\n".join(["#!/bin/bash", f"# moco submit {job.command}", *lines, "#SBATCH --requeue", *extra, ""])


def _moco(job: Job) -> str:
    """Shell that sets `moco` to the command line: by the element of the array, and by whether the run is there."""
    lines: list[str] = []
    if job.array:
        lines.append('case "$SLURM_ARRAY_TASK_ID" in')
        for number, place in enumerate(job.places):
            options = f" options=({shlex.join(place.options)})" if place.options else ""
            lines.append(f"    {number}) run={shlex.quote(place.out)}{options} ;;")
        lines.append("esac")
    else:
        lines.append(f"run={shlex.quote(job.places[0].out)}")
    begin = f"moco=({_shell(job.begin)})"
    if job.again is None:
        lines.append(begin)
    else:
        again = f"moco=({_shell(job.again)})"
        lines += [f'if [ -f "$run/{RECORDS[job.command]}" ]; then', f"    {again}", "else", f"    {begin}", "fi"]
    return "\n".join([*lines, ""])


def _shell(words: tuple[str, ...]) -> str:
    variables = {RUN: '"$run"', OPTIONS: '"${options[@]}"'}
    return " ".join(variables.get(word) or shlex.quote(word) for word in words)
