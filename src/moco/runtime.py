"""Device, precision, threads and ranks: the only file that knows Lightning Fabric and torch.distributed."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, NamedTuple, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment

from moco.config import RuntimeConfig
from moco.console import Silent, listen, say
from moco.environment import cores, cpu_info
from moco.errors import UserError
from moco.threads import Threads

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


class Runtime:
    """Where a run computes: device, precision, threads, and its place among the processes of the run.

    Attributes:
        device: the torch device.
        precision: `float32` or `bf16` (autocast).
        reason: one phrase that says why that precision.
        compile_mode: how the encoders are compiled: `off`, also where nothing can be.
        rank, world: this process's number, and how many there are.
        threads: CPU threads.
        workers: so many on the CPU, for work in parts; one on CUDA. On the CPU torch's own operations take one thread
            each, so that no figure depends on how many there are.
    """

    def __init__(self, config: RuntimeConfig, decided: Precision | None = None) -> None:
        """`decided` is the precision that the run began with: it stands unless `config` asks for another."""
        self.device = choose_device(config.device)
        self.compile_mode = config.compile
        if config.compile == "reduce-overhead" and self.device.type != "cuda":
            raise UserError("runtime.compile reduce-overhead is CUDA graphs, and this runs on the CPU: give default")
        chosen = decided if decided is not None and config.precision == "auto" else None
        chosen = chosen or choose_precision(config.precision, self.device)
        self.precision, self.reason = chosen.name, chosen.reason
        if self.device.type == "cpu":
            keep_freed_memory()
        self.threads = config.threads or _default_threads()
        on_cpu = self.device.type == "cpu"
        self.workers = Threads(self.threads if on_cpu else 1)
        torch.set_num_threads(1 if on_cpu else self.threads)
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # `line` says it, with the reason
        self._fabric = Fabric(
            accelerator="gpu" if self.device.type == "cuda" else "cpu",
            devices=[self.device.index or 0] if self.device.type == "cuda" else 1,
            precision="bf16-mixed" if self.precision == "bf16" else "32-true",
            plugins=[LightningEnvironment()],  # one process: what Slurm says of tasks is about others
        )
        self.rank, self.world = self._fabric.global_rank, self._fabric.world_size
        if not self.is_main:
            listen(Silent())
        if self.device.type == "cuda":
            torch.backends.cudnn.deterministic = True  # resume to the same bits
            torch.backends.cudnn.allow_tf32 = True  # convolutions; views and logits stay in full float32

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """`values` (n, ...) of all processes in the order of their ranks, (world * n, ...); no gradient flows."""
        if self.world == 1:
            return values
        return cast(torch.Tensor, self._fabric.all_gather(values)).flatten(0, 1)

    def any(self, value: bool) -> bool:
        """Whether `value` holds in any process: the same answer in all of them."""
        if self.world == 1:
            return value
        mine = torch.tensor([float(value)], device=self.device)
        return bool(self.gather(mine).any())

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world > 1:
            self._fabric.barrier()

    def line(self) -> str:
        """One line for the log: which device and precision, and why."""
        threads = f", {self.threads} threads" if self.device.type == "cpu" else ""
        return f"{self.device}{threads}, {self.precision} ({self.reason})"

    def autocast(self, keep_casts: bool = True) -> AbstractContextManager[Any]:
        """The precision's context for forward passes.

        Without `keep_casts` a weight is cast at each use. The casts that torch keeps belong to all threads, and the
        first thread that leaves its context drops them: which gradients are summed before and which after the cast back
        would then be a matter of timing.
        """
        if not keep_casts and self.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)
        return self._fabric.autocast()

    def compile(self, *modules: torch.nn.Module) -> None:
        """torch.compile `modules` in place, as configured; their state dicts stay as they are.

        Where nothing can be compiled they stay as they are, and a line says so.
        """
        if self.compile_mode == "off":
            return
        if complaint := why_not_compiled(self.device):
            say(f"runtime.compile is {self.compile_mode}, but the encoders stay uncompiled: {complaint}")
            self.compile_mode = "off"
        else:
            for module in modules:
                module.compile(mode=self.compile_mode)

    def begin_step(self) -> None:
        """Tell CUDA graphs that the outputs of the step before may be overwritten."""
        if self.compile_mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()

    def backward(self, loss: torch.Tensor) -> None:
        """Backpropagate."""
        self._fabric.backward(loss)

    def synchronize(self) -> None:
        """Wait for the device, for timings."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _default_threads() -> int:
    """The cores that this process may use (torch's count knows no container's quota), or OMP_NUM_THREADS of them."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return min(cores(), int(asked)) if asked.isdecimal() and int(asked) > 0 else cores()


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


def choose_device(asked: str) -> torch.device:
    """The device named `asked`; `auto` is CUDA where there is one. Raises `UserError` if it isn't there."""
    if asked == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise UserError(f"runtime.device is {asked!r}, valid: auto, cpu, cuda, cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"runtime.device is {asked!r}, valid: auto, cpu, cuda, cuda:N")
    if device.type == "cuda":
        found = torch.cuda.device_count()
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
