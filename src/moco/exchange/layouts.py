"""The ways in: whose file it is, and what is in it. A new one is a function in a file of its own, and a line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from moco.errors import UserError
from moco.exchange.architecture import listed
from moco.exchange.incoming import Weights
from moco.exchange.lightning import from_lightly, from_sololearn
from moco.exchange.official import from_official
from moco.exchange.plain import from_plain
from moco.exchange.reading import read_file

# The first that recognises the file; a function gives None for another's. The bare backbone comes last.
LAYOUTS: tuple[Callable[[dict[str, Any]], Weights | None], ...] = (
    from_official,
    from_sololearn,
    from_lightly,
    from_plain,
)


def read_weights(path: Path) -> Weights:
    """What the file at `path` holds, by its layout. Raises `UserError` for a file that is of none, or can't be read."""
    content = read_file(path)
    _check_tensors(path, content.get("state_dict"))
    try:
        for layout in LAYOUTS:
            weights = layout(content)
            if weights is not None:
                _check_finite(weights)
                return weights
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    raise UserError(f"{path} is of no layout that moco reads: it holds {listed(sorted(content))}")


def _check_tensors(path: Path, stored: Any) -> None:
    """Raises `UserError` for a state dict whose values aren't all finite tensors, by name."""
    if not isinstance(stored, dict):
        return
    strange = [str(name) for name, value in stored.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if strange:
        raise UserError(f"{path}: {listed(strange)} in its state_dict: not a tensor by its name")


def _check_finite(weights: Weights) -> None:
    """Raises `UserError` that names the tensors of a network that broke."""
    parts = (weights.backbone, weights.head, weights.key_backbone, weights.key_head)
    strange = [name for part in parts if part for name, tensor in part.items() if not tensor.isfinite().all()]
    if weights.queue is not None and not weights.queue.isfinite().all():
        strange.append("queue")
    if strange:
        raise UserError(f"numbers that aren't finite in {listed(strange)}")
