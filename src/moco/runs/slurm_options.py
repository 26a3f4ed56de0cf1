"""What is asked of Slurm: a record that the command line and Python share."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, fields

from moco.errors import UserError

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<rest>\d+(?::\d+){0,2})")
_MEMORY = re.compile(r"\d+[KMGT]?")
_AT_LEAST = {"gpus": 0, "nodes": 1, "tasks": 1, "cpus": 1, "at_once": 1, "save_s": 1}


@dataclass(frozen=True)
class SlurmOptions:
    """What a job is given, in Slurm's own words; None leaves it to the cluster.

    Attributes:
        time: limit of one job, `4:00:00`, `2-12:00:00` or minutes; a longer run goes on in the next.
        gpus: of each node, 0 for none.
        gpu_type: of the GPUs, as the cluster calls it.
        nodes: how many.
        tasks: processes of each node; default one for each GPU.
        cpus: cores of each process.
        mem: of each node, `64G`; default the cluster's.
        partition: where it runs.
        account: who pays.
        qos: quality of service.
        constraint: what the nodes must have.
        save_s: seconds before the limit at which the run is told to save and queue again.
        at_once: jobs of a sweep that run at the same time, at most.
        name: of the job; default `moco-COMMAND`.
        log: its file; %x is the job's name, %j its number.
        setup: a line of shell before anything else, `module load cuda` say.
        extra: any other options of sbatch, in one string.
    """

    time: str = "1-00:00:00"
    gpus: int = 1
    gpu_type: str | None = None
    nodes: int = 1
    tasks: int | None = None
    cpus: int = 8
    mem: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    save_s: int = 120
    at_once: int | None = None
    name: str | None = None
    log: str = "slurm-%x-%j.log"
    setup: str | None = None
    extra: str | None = None

    @property
    def tasks_per_node(self) -> int:
        """Processes of each node."""
        return self.tasks if self.tasks is not None else max(self.gpus, 1)

    def checked(self) -> SlurmOptions:
        """Itself. Raises one `UserError` that lists every value that can't be right."""
        problems = list(self._problems())
        if problems:
            raise UserError("; ".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, str) and (not value.strip() or "\n" in value):
                yield f"--slurm.{f.name} is {value!r}, give one line of text"
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                yield f"--slurm.{name} is {value}, give {least} or more"
        if self.mem is not None and not _MEMORY.fullmatch(self.mem):
            yield f"--slurm.mem is {self.mem!r}, give a number and a unit: 64G"
        if self.gpu_type is not None and self.gpus == 0:
            yield f"--slurm.gpu_type {self.gpu_type} needs --slurm.gpus 1 or more"
        yield from self._time_problems()
        try:
            shlex.split(self.extra or "")
        except ValueError as error:
            yield f"--slurm.extra is {self.extra!r}: {error}"

    def _time_problems(self) -> Iterator[str]:
        limit_s = seconds(self.time)
        if limit_s is None:
            yield f"--slurm.time is {self.time!r}, give H:MM:SS, D-HH:MM:SS or minutes: 4:00:00"
        elif limit_s < 60:
            yield f"--slurm.time is {self.time!r}, Slurm's least is a minute"
        elif self.save_s >= limit_s:
            yield f"--slurm.save_s {self.save_s} leaves nothing of --slurm.time {self.time}"


def seconds(time: str) -> int | None:
    """The seconds of one of Slurm's ways to write a time limit; None where it is none."""
    found = _TIME.fullmatch(time)
    if found is None:
        return None
    numbers = [int(part) for part in found["rest"].split(":")]
    if found["days"] is not None:  # D-H, D-H:M, D-H:M:S
        hours, minutes, rest = (*numbers, 0, 0)[:3]
        return ((int(found["days"]) * 24 + hours) * 60 + minutes) * 60 + rest
    if len(numbers) == 3:  # H:M:S
        return (numbers[0] * 60 + numbers[1]) * 60 + numbers[2]
    return numbers[0] * 60 + (numbers[1] if len(numbers) == 2 else 0)  # M, M:S
