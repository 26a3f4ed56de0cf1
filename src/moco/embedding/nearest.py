"""The rows of a feature file that are most like given ones: by faiss where it is installed, else by torch."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

ROWS = 2**16  # of a feature file that are compared at once


def nearest(
    queries: NDArray[np.float32], blocks: Iterable[NDArray[np.float32]], k: int, library: str | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cosine similarities, highest first, and row numbers, each (Q, k), of the rows most like each of `queries` (Q, F).

    `blocks` are the rows (n, F) from the beginning; k is at most their number. `library` is `faiss` or `torch`.
    """
    search = _faiss if (library or best_library()) == "faiss" else _torch
    return search(F.normalize(torch.from_numpy(queries), dim=1), (_unit(block) for block in blocks), k)


def best_library() -> str:
    """`faiss` where it is installed, else `torch`."""
    return "faiss" if find_spec("faiss") is not None else "torch"


def _unit(block: NDArray[np.float32]) -> Tensor:
    return F.normalize(torch.from_numpy(np.require(block, np.float32, ("C", "W"))), dim=1)


def _torch(queries: Tensor, blocks: Iterable[Tensor], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Exact, with no more than a block and the best so far in memory."""
    best = torch.full((len(queries), 0), -2.0)
    numbers = torch.zeros((len(queries), 0), dtype=torch.int64)
    first = 0
    for block in blocks:
        for rows in block.split(ROWS):
            here = torch.arange(first, first + len(rows)).expand(len(queries), -1)
            scores, here = torch.cat([best, queries @ rows.T], 1), torch.cat([numbers, here], 1)
            best, order = scores.topk(min(k, scores.shape[1]), dim=1)
            numbers = here.gather(1, order)
            first += len(rows)
    return best.numpy(), numbers.numpy()


def _faiss(queries: Tensor, blocks: Iterable[Tensor], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Exact too: a flat index, all rows in memory."""
    import faiss

    index = faiss.IndexFlatIP(queries.shape[1])
    for block in blocks:
        index.add(block.numpy())
    scores, numbers = index.search(queries.numpy(), k)
    return scores, numbers
