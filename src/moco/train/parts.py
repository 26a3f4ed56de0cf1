"""The parts of a batch: on the CPU each goes through the encoders on a thread of its own, as on a device of its own.

P parts are P devices on one machine: a device normalises what it has by its own statistics, the keys are shuffled
between the devices, and the gradients are averaged over them. How many parts there are is the configuration's word
(`model.bn_splits`), how many are at work at once is the machine's. No result depends on the latter: every operation
takes one thread, a part reads nothing that another writes, and what they made is put together in the parts' order.

One part is the whole batch: on CUDA always (there `SplitBatchNorm2d` does what the parts do here), on the CPU with
`bn_splits` 1, where its operations share the threads.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from moco.console import say
from moco.errors import UserError
from moco.model.batchnorm import SplitBatchNorm1d, SplitBatchNorm2d
from moco.model.moco import MoCo
from moco.randomness import Purpose, torch_seed
from moco.runtime import Runtime
from moco.threads import OrderedSum, operations_on

R = TypeVar("R")
# (a part's model, the images of its queries, their keys, their rows in the batch) -> (mean loss over them, anything)
Objective = Callable[[MoCo, list[Tensor], list[Tensor], slice], tuple[Tensor, R]]
_KEYS, _QUERIES = range(2)  # the two passes, for what the network draws in each


class Parts:
    """The parts of the batches that `model` is trained on.

    Attributes:
        models: for each part a MoCo with the model's parameters and queue, and buffers and gradients of its own; the
            model itself where there is one part.
    """

    def __init__(self, model: MoCo, runtime: Runtime) -> None:
        self._model, self._runtime = model, runtime
        self._draws = False
        self.models = self._made()

    @property
    def count(self) -> int:
        """P."""
        return len(self.models)

    def keys(self, images: list[Tensor], order: Tensor | None, seed: int) -> list[Tensor]:
        """The keys of several times N images, each (N, 3, H, W): float32 (N, dim), unit rows, no gradient.

        `order` (N,) shuffles them between the parts. `seed` is of what the network itself draws, as in dropout.
        """
        if self.count == 1:
            torch.manual_seed(seed)
            with self._all_threads(), self._runtime.autocast():
                return [self._model.keys(i, order) for i in images]
        if self._moved():
            self.models = self._made()
        rows = self._rows(len(images[0]))
        places = torch.arange(len(images[0])) if order is None else order

        def keys_of(part: int) -> list[Tensor]:
            model = self.models[part]
            self._reset(part, "encoder_k")
            with self._runtime.autocast(keep_casts=False):
                return [model.keys(i[places[rows[part]]]) for i in images]

        before = torch.get_rng_state()
        made = self._each(keys_of, seed, _KEYS)
        if not self._draws and not torch.equal(torch.get_rng_state(), before):
            # The generator is everybody's: who drew what was a matter of timing. Nothing has moved yet.
            say("the network draws random numbers (dropout): the parts of a batch run one after the other")
            self._draws = True
            made = self._each(keys_of, seed, _KEYS)
        shuffled = [torch.cat(k) for k in zip(*made)]
        self._merge("encoder_k")
        return [torch.empty_like(k).index_copy_(0, places, k) for k in shuffled]  # back in the queries' order

    def backward(self, objective: Objective[R], queries: list[Tensor], keys: list[Tensor], seed: int) -> list[R]:
        """Put the gradient of the mean loss over the batch into the query encoder's `grad`.

        `objective` is asked once for each part, with the part's rows of each of `queries` (N, 3, H, W) and `keys`
        (N, dim). Returns what it gave beside the loss, part by part.
        """
        if self.count == 1:
            with self._all_threads():
                with self._runtime.autocast():
                    loss, told = objective(self._model, queries, keys, slice(0, len(queries[0])))
                self._runtime.backward(loss)
            return [told]
        rows, total = self._rows(len(queries[0])), OrderedSum()

        def gradient_of(part: int) -> R:
            model, own = self.models[part], rows[part]
            self._reset(part, "encoder_q")
            with self._runtime.autocast(keep_casts=False):
                loss, told = objective(model, [q[own] for q in queries], [k[own] for k in keys], own)
            self._runtime.backward(loss / self.count)
            total.add(part, [p.grad for p in model.encoder_q.parameters()])
            model.encoder_q.zero_grad(set_to_none=True)
            return told

        each = self._each(gradient_of, seed, _QUERIES)
        assert total.total is not None
        for parameter, gradient in zip(self._model.encoder_q.parameters(), total.total):
            parameter.grad = gradient
        self._merge("encoder_q")
        return each

    def _each(self, function: Callable[[int], R], seed: int, stage: int) -> list[R]:
        """`function(part)` for each part: at once, or one after the other if each is to draw by itself."""
        if not self._draws:
            return self._runtime.workers.map(function, range(self.count))

        def seeded(part: int) -> R:
            torch.manual_seed(torch_seed(seed, Purpose.DROPOUT, stage, part))
            return function(part)

        with operations_on(1):
            return [seeded(part) for part in range(self.count)]

    def _rows(self, batch: int) -> list[slice]:
        """Each part's rows of a batch."""
        if batch % self.count:
            raise UserError(f"a batch of {batch} doesn't divide into {self.count} batch-norm parts")
        size = batch // self.count
        return [slice(part * size, (part + 1) * size) for part in range(self.count)]

    def _reset(self, part: int, encoder: str) -> None:
        """Give the part the model's running statistics, from which its own go on."""
        own, common = self._buffers(self.models[part], encoder), self._buffers(self._model, encoder)
        if own:
            torch._foreach_copy_(own, common)

    @torch.no_grad()
    def _merge(self, encoder: str) -> None:
        """The model's running statistics become the mean of the parts' own; a count is the first part's."""
        common = self._buffers(self._model, encoder)
        own = [self._buffers(model, encoder) for model in self.models]
        for buffer, first, *others in zip(common, *own):
            buffer.copy_(first)
            if buffer.is_floating_point():
                for other in others:  # the first one and differences: what all agree on stays as it is, to the bit
                    buffer.add_(other - first, alpha=1 / self.count)

    @staticmethod
    def _buffers(model: MoCo, encoder: str) -> list[Tensor]:
        return list(getattr(model, encoder).buffers())

    def _moved(self) -> bool:
        """Whether somebody has given the model's parameters other memory, as `Module.to` does."""
        pairs = zip(self._model.parameters(), self.models[0].parameters())
        return any(p.data_ptr() != own.data_ptr() for p, own in pairs)

    def _all_threads(self) -> contextlib.AbstractContextManager[None]:
        """For the whole batch at once."""
        on_cpu = self._runtime.device.type == "cpu"
        return operations_on(self._runtime.threads) if on_cpu else contextlib.nullcontext()

    def _made(self) -> list[MoCo]:
        if self._runtime.device.type != "cpu" or self._model.bn_splits == 1:
            return [self._model]
        made = [part_of(self._model) for _ in range(self._model.bn_splits)]
        self._runtime.compile(*(encoder for model in made for encoder in (model.encoder_q, model.encoder_k)))
        return made


def arithmetic(model: MoCo, runtime: Runtime) -> str:
    """A phrase that is the same where the same step gives the same bits, as far as threads go."""
    if runtime.device.type != "cpu":
        return "on one stream"
    if model.bn_splits == 1:
        return f"the whole batch at once on {runtime.threads} threads"
    return f"in {model.bn_splits} parts on any number of threads"


def part_of(model: MoCo) -> MoCo:
    """A MoCo of the same parameters and queue, in the same memory, with buffers and gradients of its own.

    What it is given is one part: it splits nothing.
    """
    shared: dict[int, Tensor] = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in model.parameters()}
    shared |= {id(state): state for state in (model.queue, model.queue_ptr, model.queue_images)}
    part = copy.deepcopy(model, shared)
    part.bn_splits = 1
    for module in part.modules():
        if isinstance(module, SplitBatchNorm1d | SplitBatchNorm2d):
            module.splits = 1
    return part.train()
