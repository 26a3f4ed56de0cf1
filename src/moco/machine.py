"""What a run takes of the machine that it is on: device, precision, threads, compiler, memory."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import torch

from moco.environment import cores, cpu_info
from moco.errors import UserError
from moco.ranks import ALONE, Ranks

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8  # malloc.h
BF16_FLAGS = ("amx_bf16", "avx512_bf16")


class Precision(NamedTuple):
    """What forward passes compute in, decided once for a run.

    Attributes:
        name: `float32` or `bf16` (autocast).
        reason: one phrase that says why.
    """

    name: str
    reason: str


def choose_device(asked: str, ranks: Ranks = ALONE) -> torch.device:
    """The device named `asked`; `auto` is CUDA where there is one. Raises `UserError` if it isn't there.

    Of several processes on a machine each takes the GPU of its own number among those that it is shown.
    """
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise UserError(f"runtime.device is {asked!r}, valid: auto, cpu, cuda, cuda:N") from None
    if device.type == "mps":
        raise UserError("runtime.device is 'mps', which has no float64, and the views and sums need it: give cpu")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"runtime.device is {asked!r}, valid: auto, cpu, cuda, cuda:N")
    if device.type == "cuda":
        found = torch.cuda.device_count()
        if not found:
            raise UserError(f"runtime.device is {asked!r}, but no CUDA device was found here")
        if ranks.world > 1:
            if device.index is not None:
                raise UserError(
                    f"runtime.device is {asked!r}, give cuda: each of {ranks.world} processes takes its own"
                )
            index = ranks.local_rank if found > 1 else 0  # Slurm may show each task its own GPU alone
            if ranks.local_world > found > 1 or (found == 1 and ranks.by != "srun" and ranks.local_world > 1):
                raise UserError(f"{ranks.local_world} processes on this machine, but {found} CUDA devices were found")
            return torch.device("cuda", index)
        if (device.index or 0) >= found:
            raise UserError(f"runtime.device is {asked!r}, but {found} CUDA devices were found here")
        return torch.device("cuda", device.index or 0)
    return device


def choose_precision(asked: str, device: torch.device, flags: Iterable[str] | None = None) -> Precision:
    """bf16 where the processor has the units for it: without them it is many times slower than float32.

    What the processor has decides, and no stopwatch: on a busy machine a measurement would choose by chance.
    """
    if asked != "auto":
        return Precision(asked, "as asked")
    if device.type == "cuda":
        if torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0):
            return Precision("bf16", "the GPU has bf16 units")
        return Precision("float32", "the GPU has no bf16 units")
    have = set(cpu_info()[1] if flags is None else flags)
    found = next((flag for flag in BF16_FLAGS if flag in have), None)
    if found is None:
        return Precision("float32", "the processor has neither amx_bf16 nor avx512_bf16")
    return Precision("bf16", f"the processor has {found}")


def default_threads(ranks: Ranks = ALONE) -> int:
    """The cores that this process may use (torch's count knows no container's quota), or OMP_NUM_THREADS of them.

    The processes of a machine share its cores, unless srun gave each its own.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if asked.isdecimal() and int(asked) > 0:  # is of a process, as everywhere
        return min(cores(), int(asked))
    own = ranks.by == "srun" and bool(os.environ.get("SLURM_CPUS_PER_TASK"))
    return max(1, cores() // (1 if own else ranks.local_world))


@cache
def why_not_compiled(device: torch.device) -> str:
    """Why torch.compile can't be used on `device`, in one phrase; empty where it can.

    torch.compile fails at the first call, in the middle of a run: a function is compiled and called here, one that no
    cache on disk can hold. The answer decides rounding, so a run keeps it with its results.
    """
    unseen = 1 + int.from_bytes(os.urandom(6), "big") / 2**48

    def trial(x: torch.Tensor) -> torch.Tensor:
        return (x * unseen).sin() + 1

    try:
        torch.compile(trial, dynamic=False)(torch.ones(16, device=device))
    except (RuntimeError, ImportError, OSError, subprocess.SubprocessError) as error:
        torch._dynamo.reset()
        found = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return f"torch.compile fails here ({found[:160]})"
    return ""


def keep_freed_memory() -> bool:
    """Let glibc's malloc keep what is freed, instead of mapping and clearing every large tensor anew.

    Saves half of the page faults of a training step (benchmarks/README.md). False where the C library isn't glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows: there is no such setting
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20), (_M_ARENA_MAX, 1))
    return all(mallopt(name, value) == 1 for name, value in settings)
