"""Weighted k-nearest-neighbour classification (Wu et al. 2018, "Instance discrimination", section 3.4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.evaluators.features import Features, LabelledFeatures

SIMILARITIES = 2**25  # entries of the similarity matrix held at once, 128 MiB in float32
BANK_ROWS = 2**16  # of the bank that are looked at at once
QUERY_ROWS = 2**16  # for which the neighbours so far are held at once


@torch.no_grad()
def knn_predict(
    bank: LabelledFeatures, queries: Features, k: int = 20, temperature: float = 0.1, centre: Tensor | None = None
) -> Tensor:
    """Predicted classes, int64 (M,), of `queries` by the `bank`.

    The k most similar by cosine vote with weight exp(similarity / temperature), up to a factor per query that keeps it
    finite. k above N counts as N. `centre` (F,) is subtracted from all features first.
    """
    predicted = []
    for _, block in queries.blocks(rows=QUERY_ROWS):
        wanted = F.normalize(block if centre is None else block - centre, dim=1)
        chunk = max(1, SIMILARITIES // len(bank.classes))
        similarities, numbers = nearest(bank.features, wanted, k, centre)
        labels = bank.labels[numbers.to(bank.labels.device)]
        for similarity, label in zip(similarities.split(chunk), labels.split(chunk)):
            votes = similarity.new_zeros(len(similarity), len(bank.classes))
            votes.scatter_add_(1, label, ((similarity - similarity[:, :1]) / temperature).exp())
            predicted.append(votes.argmax(1))
    return torch.cat(predicted)


def knn_top1(
    bank: LabelledFeatures,
    queries: LabelledFeatures,
    k: int = 20,
    temperature: float = 0.1,
    centre: Tensor | None = None,
) -> float:
    """Share of `queries` classified as their labels, from 0 to 1."""
    predicted = knn_predict(bank, queries.features, k, temperature, centre)
    return int((predicted == queries.labels).sum()) / len(queries)


@torch.no_grad()
def nearest(bank: Features, wanted: Tensor, k: int, centre: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k rows of the bank most like each of `wanted`, best first: (cosine similarity, number int64), both (M, k).

    `wanted` (M, F) has unit rows; `centre` (F,), if any, was subtracted before they were made so. k above N is N.
    The bank is gone through once, a block at a time; what is held is the k best so far.
    """
    best: tuple[Tensor, Tensor] | None = None
    for first, block in bank.blocks(rows=BANK_ROWS):
        rows = F.normalize(block if centre is None else block - centre, dim=1)
        found = _nearest_in(rows, first, wanted, k)
        if best is not None:
            similarity, number = (torch.cat(pair, 1) for pair in zip(best, found))
            similarity, place = similarity.topk(min(k, similarity.shape[1]), dim=1)
            found = similarity, number.gather(1, place)
        best = found
        del block, rows  # before the next block is made
    assert best is not None, "an empty bank has no neighbours"
    return best


def _nearest_in(rows: Tensor, first: int, wanted: Tensor, k: int) -> tuple[Tensor, Tensor]:
    similarities, found = [], []
    for chunk in wanted.split(max(1, SIMILARITIES // len(rows))):
        similarity, number = (chunk @ rows.T).topk(min(k, len(rows)), dim=1)
        similarities.append(similarity)
        found.append(first + number)
    return torch.cat(similarities), torch.cat(found)
