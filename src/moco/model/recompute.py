"""Less memory for more time: what a block of the network makes is forgotten and made again in the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from moco.errors import UserError

_SEQUENCES = (nn.Sequential, nn.ModuleList)


class _Recomputed(nn.Module):
    """Mixed into a block's class: in training only the block's input is kept for the backward pass.

    The second forward pass leaves the buffers (batch-norm's running statistics) as the first one made them, and draws
    what the first one drew.
    """

    def forward(self, *inputs: Any, **more: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(*inputs, **more)
        return checkpoint(
            super().forward,
            *inputs,
            use_reentrant=False,
            context_fn=lambda: (contextlib.nullcontext(), _buffers_kept(self)),
            preserve_rng_state=not _recording(),  # nothing is drawn then
            **more,
        )


def recompute_blocks(network: nn.Module) -> int:
    """Let the blocks of `network` be recomputed, and say how many there are; names and state dict stay as they are.

    A block is what a sequence holds: a residual block, a transformer's layer. Raises `UserError` where there is none.
    """
    found = list(_blocks(network))
    if not found:
        raise UserError("runtime.checkpoint_activations: this backbone has no sequence of blocks, leave it out")
    for block in found:
        block.__class__ = _recomputed(type(block))  # type: ignore[arg-type]
    return len(found)


@cache
def _recomputed(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Recomputed{kind.__name__}", (_Recomputed, kind), {})


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        several = sum(1 for part in child.modules() if list(part.parameters(recurse=False))) > 1
        if several and isinstance(module, _SEQUENCES) and not isinstance(child, _SEQUENCES):
            yield child
        else:
            yield from _blocks(child)


@contextlib.contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)


def _recording() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
