"""The dictionary as a queue (MoCo v1 section 3.2): the newest batch replaces the oldest keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.errors import UserError


def random_queue(size: int, dim: int) -> Tensor:
    """Unit rows in random directions, float32 (size, dim): what the queue holds before any key."""
    return F.normalize(torch.randn(size, dim), dim=1)


@torch.no_grad()
def replace_oldest(queue: Tensor, pointer: Tensor, keys: Tensor) -> None:
    """Write `keys` (n, dim) over the oldest rows of `queue` (K, dim), in place, and move `pointer` (1,) on.

    Any n up to K fits, at any place: writing wraps around the end. Nothing is read back to the host.
    Raises `UserError` if n is larger than K.
    """
    size = queue.shape[0]
    if len(keys) > size:
        raise UserError(f"{len(keys)} keys don't fit a queue of {size}: make model.queue_size larger")
    rows = (pointer + torch.arange(len(keys), device=queue.device)) % size
    queue.index_copy_(0, rows, keys.to(queue.dtype))
    pointer.add_(len(keys)).remainder_(size)
