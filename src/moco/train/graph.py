"""A training step on a GPU, recorded as one CUDA graph and launched in one go.

A step is thousands of kernels of a few microseconds each: the processor takes longer to launch them one by one than the
GPU to do them. Recorded, they are the same kernels on the same memory in the same order, so the results are the same
to the bit, and the processor is free for the next batch's views.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from moco.console import say
from moco.errors import TrainingFailed, in_a_line

WARM_STEPS = 3  # before the recording: libraries choose their kernels in them, and the optimizer makes its state
Compute = Callable[..., Tensor]  # (seed or None, inputs...) -> what the step saw, float32 (n,)


class StepOnGPU:
    """A step of `model` by `optimizer`, which `compute` does in tensors on a GPU.

    The learning rates are on the device while it computes: a recorded step reads them where they are. Where `record` is
    set the fourth step is recorded and replayed from then on; `compute` is given no seed then. A network that draws
    random numbers (dropout) is never recorded, since each step's draws are a function of the seed and the step.
    """

    def __init__(self, compute: Compute, model: nn.Module, optimizer: torch.optim.Optimizer, record: bool) -> None:
        self._compute, self._model, self._optimizer, self._record = compute, model, optimizer, record
        self._rates = [torch.zeros((), device=p.device) for p in (g["params"][0] for g in optimizer.param_groups)]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor | None] = []
        self._seen: Tensor | None = None
        self._places: list[int] = []
        self._shapes: list[torch.Size | None] = []
        self._warm = 0
        optimizer._warned_capturable_if_run_uncaptured = True  # it is on purpose, in the steps before the recording

    def __call__(self, seed: int, *inputs: Tensor | None) -> Tensor:
        """One step. `inputs` are None or not each time; where their shapes change, the next steps are warm ones."""
        for rate, group in zip(self._rates, self._optimizer.param_groups):
            rate.fill_(group["lr"])
        shapes = [None if given is None else given.shape for given in inputs]
        if shapes != self._shapes:
            self._shapes, self._warm, self._graph, self._seen = shapes, 0, None, None
        if not self._record or self._warm < WARM_STEPS:
            return self._at_once(seed, inputs)
        if self._graph is None or self._places != self._held():
            self._recorded(inputs)
        assert self._graph is not None and self._seen is not None
        for mine, given in zip(self._inputs, inputs):
            if mine is not None and given is not None:
                mine.copy_(given)
        self._graph.replay()
        return self._seen.clone()

    def _at_once(self, seed: int, inputs: tuple[Tensor | None, ...]) -> Tensor:
        with self._rates_on_the_device():
            seen = self._compute(seed, *inputs)
        self._warm += 1
        if self._record and self._has_drawn():
            say("the network draws random numbers (dropout): its steps are launched kernel by kernel, which is slower")
            self._record = False
        return seen

    def _recorded(self, inputs: tuple[Tensor | None, ...]) -> None:
        """Record the step; nothing is computed. Raises `TrainingFailed` where it can't be recorded."""
        self._graph, self._seen = None, None  # of another memory than the model's now
        self._inputs = [None if given is None else given.clone() for given in inputs]
        graph = torch.cuda.CUDAGraph()
        here = torch.cuda.device(self._rates[0].device)
        recording = torch.cuda.graph(graph, capture_error_mode="thread_local")  # readers may pin memory meanwhile
        try:
            with self._rates_on_the_device(), here, recording:
                self._seen = self._compute(None, *self._inputs)
        except RuntimeError as error:  # no memory for it, or the network waits for the device in its midst
            raise TrainingFailed(
                f"the step can't be recorded as one CUDA graph: give --runtime.cuda_graph false ({in_a_line(error)})"
            ) from error
        self._graph, self._places = graph, self._held()

    def _held(self) -> list[int]:
        """Where everything lies that a step changes: somebody may have given it other memory, as loading does."""
        states = (value for state in self._optimizer.state.values() for value in state.values())
        tensors = [*self._model.parameters(), *self._model.buffers(), *(s for s in states if isinstance(s, Tensor))]
        return [tensor.data_ptr() for tensor in tensors]

    def _has_drawn(self) -> bool:
        """Whether the step has used the GPU's generator, which begins anew with each step's seed."""
        return bool(torch.cuda.default_generators[self._rates[0].device.index].get_offset())

    @contextlib.contextmanager
    def _rates_on_the_device(self) -> Iterator[None]:
        groups = self._optimizer.param_groups
        before: list[dict[str, Any]] = [{n: group[n] for n in ("lr", "capturable") if n in group} for group in groups]
        for rate, group in zip(self._rates, groups):
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = True
        try:
            yield
        finally:
            for group, values in zip(groups, before):
                group.update(values)
