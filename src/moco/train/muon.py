"""Muon (Jordan 2024, kellerjordan.github.io/posts/muon), timm's, with its orthogonalisation made cheap.

timm multiplies the whole m x n matrix in each of the five rounds. All that a round does to it is to multiply it from
the left by a polynomial of its Gram matrix: the rounds here happen among m x m matrices (m the smaller side), and the
m x n one is read twice, to make the Gram matrix and to be multiplied by the outcome. For ResNet-18 that is 45 instead
of 105 GFLOP a step. On the CPU half of what is symmetric is computed, 35 GFLOP, and where the run is in bf16 the last
product is too; each matrix is a thread's, with one-thread operations: the same bits for any number.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from timm.optim import muon as timm_muon
from torch import Tensor

from moco.ranks import ALONE, Ranks
from moco.threads import Threads

Round = tuple[float, float, float]
EPS = timm_muon.MUON_EPS
BLOCK = 128  # columns of a symmetric product that are computed at a time
# Bare: torch wraps the step of a class that somebody has made an optimizer of, and hooks would be called twice in ours.
_TIMMS_STEP = inspect.unwrap(timm_muon.Muon.step)
# a, b, c of five rounds that bring singular values from 0.001 up near to 1 (timm's "quintic").
ROUNDS: list[Round] = [
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
]


class Together(Protocol):
    """What the processes of a run are to the optimizer: a `Runtime`."""

    precision: str  # `float32` or `bf16`

    @property
    def ranks(self) -> Ranks:
        """This process's place."""

    def spread(self, tensors: Sequence[Tensor], owners: Sequence[int]) -> None:
        """Make each of `tensors` what it is in its owner, the process of that rank."""


class Muon(timm_muon.Muon):
    """timm's `Muon` in its "flatten" mode; groups with `use_fallback` take its AdamW.

    Matrices go through `orthogonal`: on the CPU on `workers`, on CUDA those of a shape together. Of several processes
    each moves some of them and tells the others.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        workers: Threads | None = None,
        together: Together | None = None,
        **options: Any,
    ) -> None:
        super().__init__(groups, ns_coefficients=ROUNDS, **options)
        self._workers = workers or Threads(1)
        self._together = together

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step from the gradients that are there. A closure isn't taken: nothing here has one."""
        assert closure is None
        groups = self.param_groups
        for group in groups:
            if not group["use_fallback"]:
                self._step_matrices(group)
        self.param_groups = [group for group in groups if group["use_fallback"]]
        try:
            _TIMMS_STEP(self)
        finally:
            self.param_groups = groups

    def _step_matrices(self, group: dict[str, Any]) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        gradients = [p.grad for p in parameters]
        buffers = [self._buffer(p) for p in parameters]
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        rounds, last = group["ns_coefficients"], self._last(parameters[0].device)

        @torch.no_grad()  # each thread has a mode of its own
        def move(together: list[int]) -> None:
            made = orthogonal(torch.stack([_matrix(buffers[i]) for i in together]), rounds, last)
            moved = [_matrix_order(parameters[i]) for i in together]
            rate = group["lr"] * timm_muon.get_lr_scale(made.shape[1:], group["adjust_lr_fn"])
            if isinstance(rate, Tensor):  # on the device, for a recorded step
                torch._foreach_sub_(moved, [d.view_as(p) for p, d in zip(moved, made * rate)])
                return
            for p, direction in zip(moved, made):
                p.add_(direction.view_as(p), alpha=-rate)

        ranks = ALONE if self._together is None else self._together.ranks
        owners = _owners([_cost(b) for b in buffers], ranks.world)
        mine = [i for i, owner in enumerate(owners) if owner == ranks.rank]
        if parameters[0].device.type == "cpu":
            self._workers.map(move, [[i] for i in sorted(mine, key=lambda i: -_cost(buffers[i]))])
        else:
            shapes = defaultdict(list)
            for i in mine:
                shapes[_matrix(parameters[i]).shape].append(i)
            for together in shapes.values():
                move(together)
        if self._together is not None:
            self._together.spread(parameters, owners)

    def _last(self, device: torch.device) -> torch.dtype:
        """What the last product is computed in: bf16 saves an eighth of a CPU's time for all this."""
        in_bf16 = device.type == "cpu" and self._together is not None and self._together.precision == "bf16"
        return torch.bfloat16 if in_bf16 else torch.float32

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


def orthogonal(matrices: Tensor, rounds: list[Round], last: torch.dtype = torch.float32) -> Tensor:
    """The Newton-Schulz rounds X <- (a + b X X^T + c (X X^T)^2) X of each of `matrices` (B, m, n), after X / |X|.

    Their singular values go near to 1. Computed in float32, which the rounds need as they are here: a Gram matrix that
    is rounded to bf16 has negative eigenvalues, and each round multiplies those (a gradient whose singular values fall
    like 1/k came out with some of 700, and nothing was learnt). What they come to is multiplied with X in `last`, and
    returned so: nothing follows that could blow its rounding up, and in bf16 the direction is 1 % another one.
    """
    x = matrices.float()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_(min=EPS)
    gram = _symmetric_product(x, x.mT)  # (B, m, m); all that follows commutes with it
    product = None
    for number, (a, b, c) in enumerate(rounds, 1):
        factor = _symmetric_product(gram, gram, plus=gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor if product is None else _symmetric_product(factor, product)
        if number < len(rounds):
            gram = _symmetric_product(factor, _symmetric_product(factor, gram))
    assert product is not None
    x = product.to(last) @ x.to(last)
    return x.mT if tall else x


def _symmetric_product(
    one: Tensor, other: Tensor, plus: Tensor | None = None, beta: float = 0.0, alpha: float = 1.0
) -> Tensor:
    """beta plus + alpha (one @ other), (B, m, m), where that is symmetric: on the CPU half is computed and mirrored."""
    size = one.shape[1]
    made = one.new_empty(len(one), size, size) if plus is None else torch.empty_like(plus)
    plus = made if plus is None else plus
    block = BLOCK if one.device.type == "cpu" else size
    for first in range(0, size, block):
        to = min(first + block, size)
        there = made[:, :to, first:to]
        torch.baddbmm(plus[:, :to, first:to], one[:, :to], other[:, :, first:to], beta=beta, alpha=alpha, out=there)
        made[:, first:to, :first] = made[:, :first, first:to].mT
    return made


def _owners(costs: list[int], world: int) -> list[int]:
    """The rank that does each piece of work: the largest first, to whoever has the least."""
    load, owners = [0] * world, [0] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        owners[i] = load.index(min(load))
        load[owners[i]] += costs[i]
    return owners


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon takes it: a matrix or a convolution, not a norm, a bias, a depthwise convolution or a token."""
    return parameter.ndim >= 2 and min(parameter.shape[0], parameter.shape[1]) > 1


def _matrix_order(parameter: Tensor) -> Tensor:
    """As it lies in memory, with the output channels in front: the order of the columns changes no singular value."""
    return parameter.movedim(1, -1) if parameter.ndim > 2 else parameter


def _matrix(parameter: Tensor) -> Tensor:
    """(m, n) with n all that one output channel sees."""
    return _matrix_order(parameter).flatten(1)


def _cost(parameter: Tensor) -> int:
    """Products to be added, roughly: two readings of the matrix, and what happens among squares of its smaller side."""
    small, large = sorted(_matrix(parameter).shape)
    return small * small * (2 * large + 12 * small)
