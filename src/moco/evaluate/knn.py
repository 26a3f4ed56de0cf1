"""Weighted k-nearest-neighbour classification (Wu et al. 2018, "Instance discrimination", section 3.4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SIMILARITIES = 2**25  # entries of the similarity matrix held at once, 128 MiB in float32


@torch.no_grad()
def knn_predict(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, classes: int, k: int = 20, temperature: float = 0.1
) -> Tensor:
    """Predicted classes, int64 (M,).

    `bank` (N, F) with `bank_labels` int64 (N,), `queries` (M, F). The k most similar by cosine vote with
    weight exp(similarity / temperature), up to a factor per query that keeps it finite. k above N counts as N.
    """
    bank = F.normalize(bank, dim=1)
    k = min(k, len(bank))
    predicted = []
    for chunk in queries.split(max(1, SIMILARITIES // len(bank))):
        similarity, nearest = (F.normalize(chunk, dim=1) @ bank.T).topk(k, dim=1)  # (m, k)
        votes = similarity.new_zeros(len(chunk), classes)
        votes.scatter_add_(1, bank_labels[nearest], ((similarity - similarity[:, :1]) / temperature).exp())
        predicted.append(votes.argmax(1))
    return torch.cat(predicted)


def knn_top1(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, k: int = 20, temperature: float = 0.1
) -> float:
    """Share of `queries` (M, F) classified as their `labels` (M,), from 0 to 1."""
    classes = int(bank_labels.max()) + 1
    predicted = knn_predict(bank, bank_labels, queries, classes, k, temperature)
    return (predicted == labels).float().mean().item()
