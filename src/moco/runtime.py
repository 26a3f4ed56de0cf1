"""Where a run computes, and with whom: the only file that knows Lightning Fabric and torch.distributed."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
import torch.distributed
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy

from moco.config import RuntimeConfig
from moco.console import Silent, listen, say
from moco.errors import TrainingFailed, UserError, in_a_line
from moco.machine import (
    Precision,
    choose_device,
    choose_precision,
    default_threads,
    keep_freed_memory,
    why_not_compiled,
)
from moco.ranks import ALONE, Ranks
from moco.threads import Threads

BUCKET = 2**23  # values that are summed over the processes at a time: 32 MiB


class Runtime:
    """Where a run computes: device, precision, threads, and its place among the processes of the run.

    Attributes:
        device: the torch device.
        precision: `float32` or `bf16` (autocast).
        reason: one phrase that says why that precision.
        compile_mode: how the encoders are compiled: `off`, also where nothing can be.
        ranks: this process's place among those of the run.
        threads: CPU threads of this process.
        workers: so many on the CPU, for work in parts; one on CUDA. On the CPU torch's own operations take one thread
            each, so that no figure depends on how many there are.
    """

    def __init__(self, config: RuntimeConfig, decided: Precision | None = None, ranks: Ranks = ALONE) -> None:
        """`decided` is the precision that the run began with: it stands unless `config` asks for another.

        Several `ranks` meet here: it returns once all have.
        """
        self.ranks = ranks
        self.device = choose_device(config.device, ranks)
        self.compile_mode = config.compile
        if config.compile == "reduce-overhead" and self.device.type != "cuda":
            raise UserError("runtime.compile reduce-overhead is CUDA graphs, and this runs on the CPU: give default")
        chosen = decided if decided is not None and config.precision == "auto" else None
        chosen = chosen or choose_precision(config.precision, self.device)
        self.precision, self.reason = chosen.name, chosen.reason
        if self.device.type == "cpu":
            keep_freed_memory()
        self.threads = config.threads or default_threads(ranks)
        on_cpu = self.device.type == "cpu"
        self.workers = Threads(self.threads if on_cpu else 1)
        self._look_up: Callable[[], None] = lambda: None
        self._control: Any = None  # the group for words between processes, where the GPUs have another
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # streams, and the recording of a step, are of the current one
        self._fabric = self._joined()
        torch.set_num_threads(1 if on_cpu else self.threads)
        if ranks.world > 1:  # what rank 0 chose: processors may differ between machines
            self.precision, self.reason = self.told((self.precision, self.reason))
            if self.device.type == "cuda":
                self._control = torch.distributed.new_group(backend="gloo")  # words that the GPUs needn't wait for
        if self.device.type == "cuda":
            torch.backends.cudnn.deterministic = True  # resume to the same bits
            torch.backends.cudnn.allow_tf32 = True  # convolutions
            torch.backends.cuda.matmul.allow_tf32 = False  # views, logits and Muon's rounds are in full float32

    def _joined(self) -> Fabric:
        """Fabric with this process's place; several processes have found each other then."""
        logging.getLogger("lightning_fabric").setLevel(logging.ERROR)  # `line` says it, with the reason
        if not self.is_main:
            listen(Silent())
        ranks = self.ranks
        if ranks.world == 1:
            alone = LightningEnvironment()  # what Slurm says of tasks is about others
            return Fabric(accelerator="cpu", devices=1, plugins=[alone])
        environment: Any = TorchElasticEnvironment()
        if ranks.by == "srun":
            os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(ranks.local_world))
            environment = SLURMEnvironment(auto_requeue=False)
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        fabric = Fabric(  # its own choice of devices would count GPUs that Slurm doesn't show this process
            accelerator="cpu",
            devices=ranks.local_world,
            num_nodes=ranks.nodes,
            strategy=DDPStrategy(process_group_backend=backend),
            plugins=[environment],
        )
        with self._together("the processes of this run did not find each other"):
            fabric.launch()
        atexit.register(_leave)
        return fabric

    @contextlib.contextmanager
    def looking_up(self, look: Callable[[], None]) -> Iterator[None]:
        """In here `look` is called between the batches of whatever takes long, by all processes alike; it may raise."""
        before, self._look_up = self._look_up, look
        try:
            yield
        finally:
            self._look_up = before

    def between_batches(self) -> None:
        """Called by what takes long, all processes alike."""
        self._look_up()

    @property
    def float32_on_cpu(self) -> bool:
        """Whether convolutions are float32 on the CPU: where those with small maps are products of matrices."""
        return self.device.type == "cpu" and self.precision == "float32"

    @property
    def about(self) -> dict[str, Any]:
        """What a run records of it. `gpus` is the one that it computes on, whatever others the machine has."""
        gpus = [torch.cuda.get_device_name(self.device)] if self.device.type == "cuda" else []
        return {"gpus": gpus, "precision": self.precision, "reason": self.reason, "threads": self.threads}

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.ranks.is_main

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """`values` (n, ...) of all processes in the order of their ranks, (world * n, ...); no gradient flows."""
        if self.ranks.world == 1:
            return values
        made = values.new_empty((self.ranks.world, *values.shape))
        with self._together():
            torch.distributed.all_gather(list(made), values.contiguous())
        return made.flatten(0, 1)

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Put the sum over all processes in the place of each of `tensors`."""
        if self.ranks.world == 1:
            return
        for bucket in _buckets(tensors):
            whole = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with self._together():
                torch.distributed.all_reduce(whole)
            _part(whole, bucket)

    def spread(self, tensors: Sequence[torch.Tensor], owners: Sequence[int]) -> None:
        """Make each of `tensors` what it is in its owner, the process of that rank."""
        for owner in range(self.ranks.world if self.ranks.world > 1 else 0):
            for bucket in _buckets([t for t, rank in zip(tensors, owners) if rank == owner]):
                whole = torch.cat([tensor.reshape(-1) for tensor in bucket])
                with self._together():
                    torch.distributed.broadcast(whole, owner)
                if owner != self.ranks.rank:
                    _part(whole, bucket)

    def sum_with_gradient(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, through which the gradient flows back to all of them."""
        return values if self.ranks.world == 1 else cast(torch.Tensor, _Sum.apply(values, self))

    def any(self, bits: int) -> int:
        """Which of the `bits` are set in any process: the same answer in all of them."""
        if self.ranks.world == 1:
            return bits
        mine = torch.tensor([bits], dtype=torch.int64)
        with self._together():
            torch.distributed.all_reduce(mine, torch.distributed.ReduceOp.BOR, self._control)
        return int(mine)

    def told(self, value: Any) -> Any:
        """What `value` (plain values) is in rank 0."""
        if self.ranks.world == 1:
            return value
        with self._together():
            return self._fabric.broadcast(value)

    def differing(self, value: int) -> list[int]:
        """The ranks whose `value` is another than rank 0's."""
        every = self.gather(torch.tensor([value], dtype=torch.int64, device=self.device)).tolist()
        return [rank for rank, other in enumerate(every) if other != every[0]]

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.any(0)

    @contextlib.contextmanager
    def _together(self, what: str = "lost the connection to another process of this run") -> Iterator[None]:
        """Something that all processes do. Raises `TrainingFailed` if one of them isn't there any more."""
        try:
            yield
        except RuntimeError as error:
            raise TrainingFailed(f"{what} ({in_a_line(error)})") from error

    def line(self) -> str:
        """One line for the log: which device and precision, and why."""
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}" if self.device.type == "cpu" else ""
        several = f"{self.ranks.world} processes, each on " if self.ranks.world > 1 else ""
        return f"{several}{self.device}{threads}, {self.precision} ({self.reason})"

    def autocast(self, keep_casts: bool = True) -> AbstractContextManager[Any]:
        """The precision's context for forward passes.

        Without `keep_casts` a weight is cast at each use. The casts that torch keeps belong to all threads, and the
        first thread that leaves its context drops them: which gradients are summed before and which after the cast back
        would then be a matter of timing.
        """
        if self.precision != "bf16":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=keep_casts)

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
                module.compile(mode=self.compile_mode, dynamic=False)  # a graph for each size of views

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


def _leave() -> None:
    """End the process group, and wait for its threads.

    One that lets go of the last tensor while the interpreter ends would end the process by SIGABRT.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _part(whole: torch.Tensor, bucket: list[torch.Tensor]) -> None:
    """Copy `whole`, one after the other, into the tensors of `bucket`."""
    sizes = [tensor.numel() for tensor in bucket]
    parts = [part.view(tensor.shape) for part, tensor in zip(whole.split(sizes), bucket)]
    torch._foreach_copy_(bucket, parts)


class _Sum(torch.autograd.Function):
    """The sum over the processes; the gradient of a sum of all losses is the sum of all gradients."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor, runtime: Runtime) -> torch.Tensor:
        context.runtime = runtime
        whole = values.clone()
        runtime.sum([whole])
        return whole

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> Any:
        whole = gradient.clone()
        context.runtime.sum([whole])
        return whole, None


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """The tensors in their order, of one dtype and `BUCKET` values at most together."""
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        full = sum(t.numel() for t in bucket) + tensor.numel() > BUCKET
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
