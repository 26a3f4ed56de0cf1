"""This process's place among the processes of a run, as torchrun, srun or `launch.py` say it; torch is not needed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from moco.errors import UserError

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_SRUN = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_NODES")


@dataclass(frozen=True)
class Ranks:
    """Process number `rank` of `world`; the one and only one unless something else is said.

    Attributes:
        rank, world: number of this process, and how many there are.
        local_rank, local_world: the same, of those on this machine.
        by: who started them: `torchrun` (and `--runtime.devices`), `srun`, or nobody.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    by: str = ""

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    @property
    def nodes(self) -> int:
        """How many machines, each with as many processes."""
        return self.world // self.local_world

    def rows(self, count: int) -> slice:
        """This process's rows of `count` that all share. Raises `UserError` where they don't divide."""
        if count % self.world:
            raise UserError(f"{count} images a step don't divide over {self.world} processes")
        size = count // self.world
        return slice(self.rank * size, (self.rank + 1) * size)


ALONE = Ranks()


def found(environ: Mapping[str, str] = os.environ) -> Ranks:
    """What the environment says; `ALONE` where it speaks of one process, or of none.

    Slurm is asked about the step that `srun` made: what it says of a job's tasks is not about a process that was
    started without it. Raises `UserError` for machines with different numbers of processes.
    """
    if all(name in environ for name in _TORCHRUN):
        rank, world, local, here = (int(environ[name]) for name in _TORCHRUN[:4])
        ranks = Ranks(rank, world, local, here, "torchrun")
    elif all(name in environ for name in _SRUN):
        world, rank, local, nodes = (int(environ[name]) for name in _SRUN)
        ranks = Ranks(rank, world, local, -(-world // nodes), "srun")
    else:
        return ALONE
    if ranks.world == 1:
        return ALONE
    if ranks.world % ranks.local_world:
        raise UserError(
            f"{ranks.world} processes with {ranks.local_world} on this machine: start as many on each machine"
        )
    return ranks
