"""Linear classification proves its own protocol: what trains, and that the backbone does not move.

MoCo v1 section 4.1: "we freeze the features and train a supervised linear classifier". The usual mistake is a
backbone in training mode, whose batch-norm statistics drift while nobody looks; a hash over every byte finds it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


class ProtocolBroken(RuntimeError):
    """Something trained that must not, or the backbone changed: a bug, never the user's mistake."""


@dataclass
class Proof:
    """What is known about one linear classification.

    Attributes:
        backbone: the frozen network.
        backbone_sha256: `fingerprint` of it.
        trained: name -> shape of the tensors that train.
    """

    backbone: nn.Module
    backbone_sha256: str
    trained: dict[str, list[int]] = field(default_factory=dict)

    def trains(self, tensors: Mapping[str, Tensor]) -> None:
        """Record the `tensors` handed to the optimizer: exactly `weight` and `bias`, none of them the backbone's.

        Raises `ProtocolBroken` for any others, or if a tensor of the backbone takes gradients.
        """
        if sorted(tensors) != ["bias", "weight"]:
            raise ProtocolBroken(f"{len(tensors)} tensors train ({', '.join(tensors)}), not weight and bias alone")
        frozen = {tensor.untyped_storage().data_ptr() for _, tensor in _tensors(self.backbone)}
        for name, tensor in tensors.items():
            if tensor.untyped_storage().data_ptr() in frozen:
                raise ProtocolBroken(f"{name} is a tensor of the backbone")
        learning = [name for name, parameter in self.backbone.named_parameters() if parameter.requires_grad]
        if learning:
            raise ProtocolBroken(f"{len(learning)} tensors of the backbone take gradients ({learning[0]}, ...)")
        self.trained = {name: list(tensor.shape) for name, tensor in tensors.items()}

    def check(self) -> None:
        """Raises `ProtocolBroken` unless two tensors trained and every byte of the backbone is as before."""
        if len(self.trained) != 2:
            raise ProtocolBroken("no classifier was trained")
        moved = [name for name, parameter in self.backbone.named_parameters() if parameter.grad is not None]
        if moved:
            raise ProtocolBroken(f"{len(moved)} tensors of the backbone have gradients ({moved[0]}, ...)")
        if fingerprint(self.backbone) != self.backbone_sha256:
            raise ProtocolBroken("the backbone changed while the classifier was trained")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `result.json`."""
        return {
            "trained_tensors": self.trained,
            "frozen_tensors": sum(1 for _ in _tensors(self.backbone)),
            "backbone_sha256": self.backbone_sha256,
            "backbone_unchanged": fingerprint(self.backbone) == self.backbone_sha256,
        }


@contextlib.contextmanager
def proven(backbone: nn.Module) -> Iterator[Proof]:
    """Train a classifier on `backbone` inside this; the proof is checked at the end.

    Raises `ProtocolBroken` as `Proof.trains` and `Proof.check` do.
    """
    proof = Proof(backbone, fingerprint(backbone))
    yield proof
    proof.check()


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over every parameter and buffer of `module`: name, type, shape and bytes; any memory format."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(module)):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
