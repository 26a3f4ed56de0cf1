"""Checkpoints of PyTorch Lightning by the two libraries that train MoCo in it: lightly and solo-learn."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from moco.errors import UserError
from moco.exchange.architecture import listed
from moco.exchange.incoming import Tensors, Weights, is_head

# A ResNet's children as lightly's examples number them: `nn.Sequential(*list(resnet.children())[:-1])`.
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
# (query backbone, query head, key backbone, key head): lightly's benchmark, where `backbone` is the momentum encoder
# that is evaluated, then its examples.
_LIGHTLY = (
    ("query_backbone.", "query_projection_head.layers.", "backbone.", "projection_head.layers."),
    ("backbone.", "projection_head.layers.", "backbone_momentum.", "projection_head_momentum.layers."),
    ("backbone.", "projection_head.layers.", "key_backbone.", "key_projection_head.layers."),
)
_BANK = "criterion.memory_bank."
_SOLO = (
    ("backbone.", "projector.", "momentum_backbone.", "momentum_projector."),
    ("encoder.", "projector.", "momentum_encoder.", "momentum_projector."),
)


def from_lightly(content: dict[str, Any]) -> Weights | None:
    """The weights in a Lightning checkpoint of lightly's MoCo; None if it is another layout."""
    stored = _state_dict(content)
    names = next((names for names in _LIGHTLY if all(_below(name, stored) for name in names[:3])), None)
    if names is None:
        return None
    query, key = (_unnumbered(_below(name, stored)) for name in (names[0], names[2]))
    head, key_head = _below(names[1], stored), _below(names[3], stored)
    rest = _rest(stored, (*names, _BANK), ("online_classifier.",), "lightly's MoCo")
    bank, pointer = stored.get(f"{_BANK}bank"), stored.get(f"{_BANK}bank_ptr")
    if bank is not None and bank.ndim == 2:
        dim = len(next(reversed(head.values())))
        bank = bank.T.contiguous() if bank.shape[0] == dim and bank.shape[1] != dim else bank  # (dim, K) before 1.5
    return _weights("MoCo of lightly", content, (query, head, key, key_head), bank, pointer, rest)


def from_sololearn(content: dict[str, Any]) -> Weights | None:
    """The weights in a Lightning checkpoint of solo-learn's MoCo v2+; None if it is another layout."""
    stored = _state_dict(content)
    names = next((names for names in _SOLO if all(_below(name, stored) for name in names)), None)
    if names is None:
        return None
    query, head, key, key_head = (_below(name, stored) for name in names)
    if "conv1.weight" in query and query["conv1.weight"].shape[-1] == 3:
        raise UserError(
            "solo-learn's network for CIFAR pads its first convolution by 2 pixels, moco's small stem by 1: its "
            "weights would give other features here"
        )
    rest = _rest(stored, (*names, "queue"), ("classifier.", "momentum_classifier."), "solo-learn's MoCo")
    queue = stored.get("queue")
    if queue is not None and queue.ndim == 3:  # (2, dim, K): one for the keys of each of the two views
        queue, rest = queue[0].T.contiguous(), (*rest, "the second view's queue")
    pointer = stored.get("queue_ptr")
    return _weights("MoCo v2+ of solo-learn", content, (query, head, key, key_head), queue, pointer, rest)


def _weights(
    layout: str,
    content: dict[str, Any],
    parts: tuple[Tensors, Tensors, Tensors, Tensors],
    queue: Tensor | None,
    pointer: Tensor | None,
    rest: tuple[str, ...],
) -> Weights:
    query, head, key, key_head = parts
    if content.get("optimizer_states"):
        rest = (*rest, "optimizer")
    if not is_head(head):  # with batch-norm, or of three layers
        return Weights(layout, query, None, key, epoch=_epoch(content), left=(*rest, "head, of another kind", "queue"))
    return Weights(layout, query, head, key, key_head or None, queue, pointer, _epoch(content), left=rest)


def _state_dict(content: dict[str, Any]) -> Tensors:
    stored = content.get("state_dict")
    return stored if isinstance(stored, dict) else {}


def _below(prefix: str, stored: Tensors) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix)}


def _unnumbered(backbone: Tensors) -> Tensors:
    """torchvision's names for the numbers of a ResNet's children."""
    if not all(name.split(".")[0] in _CHILDREN for name in backbone):
        return backbone
    split = {name: name.partition(".") for name in backbone}
    return {f"{_CHILDREN[number]}.{rest}": backbone[name] for name, (number, _, rest) in split.items()}


def _rest(stored: Tensors, known: tuple[str, ...], monitors: tuple[str, ...], whose: str) -> tuple[str, ...]:
    """What is left of the file: the classifiers that ran beside. Raises `UserError` for names without a place."""
    strange = [name for name in stored if not name.startswith((*known, *monitors))]
    if strange:
        raise UserError(f"a checkpoint of {whose} with names that have no place: {listed(strange)}")
    return tuple(f"{name.rstrip('.')}" for name in monitors if _below(name, stored))


def _epoch(content: dict[str, Any]) -> int:
    """Epochs done. What is stored at an epoch's end counts from 0, what is stored after the last from 1."""
    place = content
    for key in ("loops", "fit_loop", "epoch_progress", "current"):
        place = place.get(key) or {}
        if not isinstance(place, dict):
            break
    else:
        if isinstance(done := place.get("processed"), int):
            return done
    epoch = content.get("epoch")
    return epoch + 1 if isinstance(epoch, int) else 0
