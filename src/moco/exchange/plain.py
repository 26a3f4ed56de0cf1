"""A backbone's state dict under torchvision's or timm's names, bare or below the usual prefixes."""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor

from moco.errors import UserError
from moco.exchange.incoming import Tensors, Weights
from moco.exchange.official import split_head
from moco.exchange.reading import METADATA
from moco.exchange.safetensors import RECIPE

_CONTAINERS = ("state_dict", "model", "model_state_dict", "state_dict_ema")
_PREFIXES = ("module.", "encoder_q.", "backbone.", "encoder.", "model.", "net.")


def from_plain(content: dict[str, Any]) -> Weights | None:
    """The backbone in a file without a head and queue of MoCo's; None if it holds no tensors by name."""
    told = content.get(METADATA, {})
    stored = {name: value for name, value in content.items() if name != METADATA}
    for container in _CONTAINERS:
        if isinstance(stored.get(container), dict):
            stored = stored[container]
            break
    if not stored or not all(isinstance(value, Tensor) for value in stored.values()):
        return None
    backbone, head = _without_prefixes(stored), None
    if {"fc.0.weight", "fc.2.weight"} <= set(backbone):  # a stripped file of the authors' whose head was kept
        backbone, head = split_head(backbone)
    own = _own(told)
    kind = "safetensors of moco" if own else "a backbone" + (" with MoCo v2's head" if head else "")
    return Weights(kind, backbone, head, arch=told.get("backbone") or told.get("architecture"), own=own)


def _without_prefixes(stored: Tensors) -> Tensors:
    """The names without what all of them begin with; a classifier may stand outside of it."""
    changed = True
    while changed:
        changed = False
        for prefix in _PREFIXES:
            inside = [name for name in stored if name.startswith(prefix)]
            outside = [name for name in stored if not name.startswith((prefix, "fc.", "classifier.", "head."))]
            if inside and not outside:
                stored = {name.removeprefix(prefix): tensor for name, tensor in stored.items()}
                changed = True
    return stored


def _own(told: dict[str, str]) -> dict[str, Any] | None:
    """The configuration in the header of a file of this program's."""
    if RECIPE not in told or "made_by" not in told:
        return None
    try:
        config = json.loads(told[RECIPE])
    except ValueError as error:
        raise UserError(f"the recipe in the file's header is no JSON: {error}") from error
    return {"config": config}
