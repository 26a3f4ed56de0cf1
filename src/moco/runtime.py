"""Device, precision and threads: the only file that knows Lightning Fabric."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch
from lightning_fabric import Fabric

from moco.config import RuntimeConfig
from moco.console import say
from moco.environment import cpu_info
from moco.errors import UserError

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8  # malloc.h
BF16_FLAGS = ("amx_bf16", "avx512_bf16")


class Runtime:
    """Where a run computes.

    Attributes:
        device: the torch device.
        precision: `float32` or `bf16` (autocast).
        reason: one phrase that says why that precision.
    """

    def __init__(self, config: RuntimeConfig) -> None:
        self.device = choose_device(config.device)
        self._compile = config.compile
        if config.compile == "reduce-overhead" and self.device.type != "cuda":
            raise UserError("runtime.compile reduce-overhead is CUDA graphs, and this runs on the CPU: give default")
        self.precision, self.reason = choose_precision(config.precision, self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # `line` says it, with the reason
        self._fabric = Fabric(
            accelerator="gpu" if self.device.type == "cuda" else "cpu",
            devices=[self.device.index or 0] if self.device.type == "cuda" else 1,
            precision="bf16-mixed" if self.precision == "bf16" else "32-true",
        )
        if self.device.type == "cuda":
            torch.backends.cudnn.deterministic = True  # resume to the same bits
            torch.backends.cudnn.allow_tf32 = True  # convolutions; views and logits stay in full float32

    def line(self) -> str:
        """One line for the log: which device and precision, and why."""
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        return f"{self.device}{threads}, {self.precision} ({self.reason})"

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision's context for forward passes."""
        return self._fabric.autocast()

    def compile(self, *modules: torch.nn.Module) -> None:
        """torch.compile `modules` in place, as configured; their state dicts stay as they are.

        Where nothing can be compiled they stay as they are, and a line says so.
        """
        if self._compile == "off":
            return
        if complaint := why_not_compiled(self.device):
            say(f"runtime.compile is {self._compile}, but the encoders stay uncompiled: {complaint}")
            self._compile = "off"
        else:
            for module in modules:
                module.compile(mode=self._compile)

    def begin_step(self) -> None:
        """Tell CUDA graphs that the outputs of the step before may be overwritten."""
        if self._compile == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()

    def backward(self, loss: torch.Tensor) -> None:
        """Backpropagate."""
        self._fabric.backward(loss)

    def synchronize(self) -> None:
        """Wait for the device, for timings."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@cache
def bf16_gain() -> float:
    """How many times faster a small convolution, forward and backward, is in bf16 than in float32; 0.1 s."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        images = torch.ones(32, 64, 16, 16, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
        kernel = torch.ones(64, 64, 3, 3, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
        times = []
        for _ in range(4):
            started = time.perf_counter()
            torch.nn.functional.conv2d(images, kernel, padding=1).sum().backward()
            times.append(time.perf_counter() - started)
        seconds[dtype] = min(times)
    return seconds[torch.float32] / seconds[torch.bfloat16]


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
    except (AttributeError, OSError):  # musl, macOS, Windows: there is no such setting
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


def choose_precision(asked: str, device: torch.device, flags: Iterable[str] | None = None) -> tuple[str, str]:
    """(`float32` or `bf16`, why). bf16 without the units for it is many times slower than float32."""
    if asked != "auto":
        return asked, "as asked"
    if device.type == "cuda":
        if torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0):
            return "bf16", "the GPU has bf16 units"
        return "float32", "the GPU has no bf16 units"
    have = set(cpu_info()[1] if flags is None else flags)
    for flag in BF16_FLAGS:
        if flag in have:
            gain = bf16_gain()
            if gain > 1:
                return "bf16", f"the processor has {flag}, a convolution gains {gain:.1f} times"
            return "float32", f"the processor has {flag}, but a convolution takes {1 / gain:.1f} times as long in bf16"
    return "float32", "the processor has neither amx_bf16 nor avx512_bf16"
