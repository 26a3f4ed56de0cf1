"""What a file of weights held, whatever its layout, and how a model takes it up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from moco.errors import UserError
from moco.exchange.architecture import CLASSIFIERS, COUNTER, listed
from moco.model.moco import MoCo

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Weights:
    """What was recognised in a file.

    Attributes:
        layout: whose it is, as a person says it.
        backbone: the query encoder's, under the library's names; its classifier may be among them.
        head: the query encoder's projection head, under this program's names; None where there is none.
        key_backbone, key_head: the key encoder's.
        queue: (K, dim), unit rows, and `queue_ptr` (1,), its oldest row.
        epoch: epochs done, 0 where nothing is said.
        arch: the backbone's name, where the file says it.
        momenta: the optimizer's buffer of each parameter of the query encoder, in their order.
        sgd: its options (`lr`, `momentum`, `weight_decay`).
        left: what of the file has no place here, a phrase each.
        own: what this program wrote beside it: a configuration at least.
    """

    layout: str
    backbone: Tensors
    head: Tensors | None = None
    key_backbone: Tensors | None = None
    key_head: Tensors | None = None
    queue: Tensor | None = None
    queue_ptr: Tensor | None = None
    epoch: int = 0
    arch: str | None = None
    momenta: list[Tensor | None] | None = None
    sgd: dict[str, float] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    own: dict[str, Any] | None = None

    @property
    def mlp(self) -> bool:
        """Whether the head has two layers (v2)."""
        return self.head is not None and "0.weight" in self.head

    @property
    def dim(self) -> int | None:
        """Width of the embedding; None without a head."""
        return None if self.head is None else len(self.head["2.weight" if self.mlp else "weight"])

    @property
    def head_width(self) -> int | None:
        """Width between the head's two layers; None for the backbone's own."""
        if self.head is None or not self.mlp:
            return None
        width, features = self.head["0.weight"].shape
        return None if width == features else width


def is_head(tensors: Tensors) -> bool:
    """Whether these are the tensors of a projection head as MoCo v1 or v2 has it, under this program's names."""
    return set(tensors) in ({"weight", "bias"}, {"0.weight", "0.bias", "2.weight", "2.bias"})


@dataclass(frozen=True)
class Taken:
    """What a model took of a file, and what it left, a phrase each."""

    taken: tuple[str, ...]
    left: tuple[str, ...]

    def __str__(self) -> str:
        return f"took {', '.join(self.taken)}; left {', '.join(self.left) or 'nothing'}"


@torch.no_grad()
def fill(model: MoCo, weights: Weights, whole: bool) -> Taken:
    """Give `model` what is in `weights`, in place: all of it if `whole`, else the query encoder's to both encoders.

    What the file lacks stays as it was initialised; the key encoder's becomes a copy of the query encoder's. Raises
    `UserError` for a backbone of another architecture.
    """
    taken, left = ["backbone"], list(weights.left)
    query, key = model.encoder_q, model.encoder_k
    _load(query.backbone, weights.backbone, left)
    if weights.head is not None and _fits(query.head, weights.head, left):
        query.head.load_state_dict(weights.head)
        taken.append("head")
    key.backbone.load_state_dict(query.backbone.state_dict())
    key.head.load_state_dict(query.head.state_dict())  # a predictor is the query encoder's alone
    if not whole:
        left += [
            what
            for what, there in (("key encoder", weights.key_backbone), ("queue", weights.queue))
            if there is not None
        ]
        return Taken(tuple(taken), tuple(left))
    if weights.key_backbone is not None:
        _load(key.backbone, weights.key_backbone, [])
        if weights.key_head is not None and _fits(key.head, weights.key_head, []):
            key.head.load_state_dict(weights.key_head)
        taken.append("key encoder")
    if weights.queue is not None:
        if weights.queue.shape != model.queue.shape:
            left.append(f"queue {tuple(weights.queue.shape)} (the model's is {tuple(model.queue.shape)})")
        else:
            model.queue.copy_(weights.queue)
            model.queue_ptr.copy_(torch.zeros(1) if weights.queue_ptr is None else weights.queue_ptr)
            taken.append(f"queue of {len(model.queue):,} keys")
    return Taken(tuple(taken), tuple(left))


def _load(module: nn.Module, tensors: Mapping[str, Tensor], left: list[str]) -> None:
    wanted = module.state_dict()
    counters = {name: tensor for name, tensor in wanted.items() if name.endswith(COUNTER) and name not in tensors}
    classifier = [name for name in tensors if name not in wanted and name.startswith(CLASSIFIERS)]
    given = {name: tensor for name, tensor in tensors.items() if name not in classifier}
    if classifier:
        left.append(f"classifier ({listed(classifier)})")
    try:
        module.load_state_dict({**counters, **given}, strict=True)
    except RuntimeError as error:
        names = [
            *(name for name in given if name not in wanted),
            *(f"no {name}" for name in wanted if name not in tensors),
        ]
        told = listed(names) or " ".join(str(error).split())[:160]
        raise UserError(f"the weights are of another backbone: {told}") from error


def _fits(head: nn.Module, tensors: Mapping[str, Tensor], left: list[str]) -> bool:
    ours = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if ours != theirs:
        shapes = ", ".join(f"{name} {shape}" for name, shape in theirs.items() if ours.get(name) != shape)
        left.append(f"head ({shapes} doesn't fit)")
    return ours == theirs
