"""The parts of a batch: on the CPU each goes through the encoders on a thread of its own, as on a device of its own.

P parts are P devices: a device normalises what it has by its own statistics, the keys are shuffled between the devices,
and the gradients are averaged over them. How many parts there are is the configuration's word (`model.bn_splits`). How
many are at work at once, and in how many processes, is the machine's, and no result depends on it: each process has as
many parts as every other, every operation of a part takes one thread, a part reads nothing that another writes, and
what they made is put together in the parts' order. (The gradients of three processes and more are added in an order of
the communication's own: the same sum, to rounding.)

One part is the whole batch, with one statistic. On the CPU its operations share the threads; of several processes each
has some rows, and batch-norm adds up its sums over all of them (`SyncBatchNorm`).

On CUDA a piece of the batch with several parts goes through at once: `SplitBatchNorm2d` does there what the parts do
here. There are as many pieces as `train.accumulate` says.
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
from moco.model.batchnorm import SplitBatchNorm1d, SplitBatchNorm2d, has_batchnorm, sync_batchnorm
from moco.model.moco import MoCo
from moco.randomness import Purpose, torch_seed
from moco.runtime import Runtime
from moco.threads import OrderedSum, operations_on

R = TypeVar("R")
# (a part's model, the images of its queries, their keys, their rows in the batch) -> (mean loss over them, anything)
Objective = Callable[[MoCo, list[Tensor], list[Tensor], slice], tuple[Tensor, R]]
_KEYS, _QUERIES = range(2)  # the two passes, for what the network draws in each


class Parts:
    """The parts of the batches that `model` is trained on, or those of them that this process has.

    Attributes:
        models: for each part (on CUDA: for each piece) a MoCo with the model's parameters and queue, and buffers and
            gradients of its own; the model itself where there is one piece and one process.
    """

    def __init__(self, model: MoCo, runtime: Runtime, accumulate: int = 1) -> None:
        """Raises `UserError` where the parts don't divide over the processes, or over the pieces to accumulate."""
        self._model, self._runtime, self._accumulate = model, runtime, accumulate
        self._in_turn = runtime.device.type != "cpu"  # there they come one after the other anyway
        self.models = self._made()

    @property
    def count(self) -> int:
        """How many go through the encoders by themselves, in this process."""
        return len(self.models)

    @property
    def everywhere(self) -> int:
        """The same, of all processes together."""
        return self.count * self._runtime.ranks.world

    @property
    def whole(self) -> bool:
        """Whether the batch stays in one piece, in one process."""
        return self.models[0] is self._model

    def gather(self, values: Tensor) -> Tensor:
        """`values` (n, ...) of all processes, in the order of their ranks."""
        return self._runtime.gather(values)

    def keys(self, images: list[Tensor], order: Tensor | None, seed: int | None) -> list[Tensor]:
        """The keys of several times N images: float32 (N, dim) each, unit rows, no gradient, in the queries' order.

        `order` (N,) shuffles them between the parts. `images` are (N, 3, H, W) each, as they come; of several processes
        they are this one's share (n, 3, H, W) of the shuffled ones. `seed` is of what the network itself draws, as in
        dropout; None for one that draws nothing.
        """
        if self.whole:
            if seed is not None:
                torch.manual_seed(seed)
            places = torch.arange(len(images[0]), device=images[0].device) if order is None else order
            with self._all_threads(), self._runtime.autocast():
                return [self._model.keys(i, places) for i in images]
        if self._moved():
            self.models = self._made()
        rows = self._rows(len(images[0]))
        places = torch.arange(len(images[0]), device=images[0].device)
        if order is not None and self._runtime.ranks.world == 1:
            places = order

        def keys_of(part: int) -> list[Tensor]:
            model = self.models[part]
            self._reset(part, "encoder_k")
            with self._runtime.autocast(keep_casts=False):
                return [model.keys(i[places[rows[part]]]) for i in images]

        before = torch.get_rng_state()
        made = self._each(keys_of, seed, _KEYS)
        if not self._in_turn and not torch.equal(torch.get_rng_state(), before):
            # The generator is everybody's: who drew what was a matter of timing. Nothing has moved yet.
            say("the network draws random numbers (dropout): the parts of a batch run one after the other")
            self._in_turn = True
            made = self._each(keys_of, seed, _KEYS)
        shuffled = [self.gather(torch.cat(k)) for k in zip(*made)]
        self._merge("encoder_k")
        if order is None:
            return shuffled
        return [torch.empty_like(k).index_copy_(0, order, k) for k in shuffled]  # back in the queries' order

    def backward(self, objective: Objective[R], queries: list[Tensor], keys: list[Tensor], seed: int | None) -> list[R]:
        """Put the gradient of the mean loss over the batch into the query encoder's `grad`.

        `objective` is asked once for each part, with the part's rows of each of `queries` (N, 3, H, W) and `keys`
        (N, dim). Of several processes the queries are this one's (n, 3, H, W), and the keys all. Returns what it gave
        beside the loss, for each part of this process.
        """
        if self.whole:
            with self._all_threads():
                with self._runtime.autocast():
                    loss, told = objective(self._model, queries, keys, slice(0, len(queries[0])))
                self._runtime.backward(loss)
            return [told]
        rows, total = self._rows(len(queries[0])), OrderedSum()
        first = self._runtime.ranks.rank * len(queries[0])

        def gradient_of(part: int) -> R:
            model, own = self.models[part], rows[part]
            in_batch = slice(first + own.start, first + own.stop)
            self._reset(part, "encoder_q")
            with self._runtime.autocast(keep_casts=False):
                loss, told = objective(model, [q[own] for q in queries], [k[in_batch] for k in keys], in_batch)
            self._runtime.backward(loss / self.everywhere)
            total.add(part, [p.grad for p in model.encoder_q.parameters()])
            model.encoder_q.zero_grad(set_to_none=True)
            return told

        each = self._each(gradient_of, seed, _QUERIES)
        assert total.total is not None
        self._runtime.sum([gradient for gradient in total.total if gradient is not None])
        for parameter, gradient in zip(self._model.encoder_q.parameters(), total.total):
            parameter.grad = gradient
        self._merge("encoder_q")
        return each

    def _each(self, function: Callable[[int], R], seed: int | None, stage: int) -> list[R]:
        """`function(part)` for each part: at once, or one after the other if each is to draw by itself."""
        if not self._in_turn and self._model.bn_splits == 1:
            with self._all_threads():
                return [function(part) for part in range(self.count)]
        if not self._in_turn:
            at_once = self.count // self._accumulate
            pieces = [range(first, first + at_once) for first in range(0, self.count, at_once)]
            return [made for piece in pieces for made in self._runtime.workers.map(function, piece)]
        before = self._runtime.ranks.rank * self.count

        def seeded(part: int) -> R:
            if seed is not None:
                torch.manual_seed(torch_seed(seed, Purpose.DROPOUT, stage, before + part))
            return function(part)

        with operations_on(1):
            return [seeded(part) for part in range(self.count)]

    def _rows(self, batch: int) -> list[slice]:
        """Each part's rows of this process's `batch`."""
        if batch % self.count:
            raise UserError(f"a batch of {batch} doesn't divide into {self.count} parts")
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
        own = self._of_all([self._buffers(model, encoder) for model in self.models])
        for buffer, first, *others in zip(common, *own):
            buffer.copy_(first)
            if buffer.is_floating_point():
                for other in others:  # the first one and differences: what all agree on stays as it is, to the bit
                    buffer.add_(other - first, alpha=1 / len(own))

    def _of_all(self, own: list[list[Tensor]]) -> list[list[Tensor]]:
        """The buffers of all processes' parts; what isn't a number of the parts' own, as a count, is this process's."""
        if self._runtime.ranks.world == 1:
            return own
        numbers = [n for n, buffer in enumerate(own[0]) if buffer.is_floating_point()]
        if not numbers:
            return own
        flat = torch.stack([torch.cat([buffers[n].flatten().float() for n in numbers]) for buffers in own])
        made = []
        for row in self.gather(flat):
            parts = dict(zip(numbers, row.split([own[0][n].numel() for n in numbers])))
            made.append([parts[n].view_as(b) if n in parts else b for n, b in enumerate(own[0])])
        return made

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
        splits, world = self._model.bn_splits, self._runtime.ranks.world
        if splits == 1:
            return self._one_statistic()
        if splits % (world * self._accumulate):
            raise UserError(
                f"model.bn_splits {splits} doesn't divide into {world} processes of {self._accumulate} pieces "
                f"(train.accumulate) each: give --model.bn_splits {world * self._accumulate}, or a multiple"
            )
        here = splits // world
        pieces = self._accumulate if self._runtime.device.type != "cpu" else here
        if pieces == 1 and world == 1:
            return [self._model]
        return self._compiled([part_of(self._model, here // pieces) for _ in range(pieces)])

    def _one_statistic(self) -> list[MoCo]:
        world = self._runtime.ranks.world
        if world == 1 and self._accumulate == 1:
            return [self._model]
        if self._accumulate > 1 and has_batchnorm(self._model):
            raise UserError(
                f"train.accumulate {self._accumulate} takes a batch-norm part or more at a time: "
                f"give --model.bn_splits {world * self._accumulate}, or a multiple"
            )
        made = [part_of(self._model) for _ in range(self._accumulate)]
        if world > 1:
            for model in made:
                sync_batchnorm(model, self._runtime.sum_with_gradient)
        return self._compiled(made)

    def _compiled(self, made: list[MoCo]) -> list[MoCo]:
        self._runtime.compile(*(encoder for model in made for encoder in (model.encoder_q, model.encoder_k)))
        return made


def part_of(model: MoCo, splits: int = 1) -> MoCo:
    """A MoCo of the same parameters and queue, in the same memory, with buffers and gradients of its own.

    What it is given is one piece, of `splits` batch-norm parts, and already shuffled.
    """
    shared: dict[int, Tensor] = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in model.parameters()}
    shared |= {id(state): state for state in (model.queue, model.queue_ptr, model.queue_images)}
    part = copy.deepcopy(model, shared)
    part.bn_splits = 1
    for module in part.modules():
        if isinstance(module, SplitBatchNorm1d | SplitBatchNorm2d):
            module.splits = splits
    return part.train()
