"""Against brute force in numpy, a query at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tests.evaluators.conftest import labelled_features
from torch import Tensor

from moco.evaluators import knn
from moco.evaluators.features import Features
from moco.evaluators.knn import knn_predict, knn_top1, nearest

Floats = NDArray[np.float64]


def predict(bank: Tensor, labels: Tensor, queries: Tensor, classes: int, **options: float) -> Tensor:
    return knn_predict(labelled_features(bank, labels, classes), Features.of(queries), **options)  # type: ignore[arg-type]


def brute_force(
    bank: Floats, labels: NDArray[np.int64], queries: Floats, classes: int, k: int, temperature: float
) -> list[int]:
    """Wu et al. 2018, section 3.4, as it is written there."""
    predicted = []
    for query in queries:
        cosine = [float(row @ query / (np.linalg.norm(row) * np.linalg.norm(query))) for row in bank]
        votes = np.zeros(classes)
        for index in np.argsort(cosine)[::-1][:k]:
            votes[labels[index]] += np.exp(cosine[index] / temperature)
        predicted.append(int(votes.argmax()))
    return predicted


def problem(seed: int, bank: int = 60, queries: int = 37) -> tuple[Floats, NDArray[np.int64], Floats]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(bank, 5)), rng.integers(0, 4, bank), rng.normal(size=(queries, 5))


@pytest.mark.parametrize("k", [1, 3, 20, 60])
@pytest.mark.parametrize("temperature", [0.07, 0.1, 1.0])
def test_it_equals_brute_force(k: int, temperature: float) -> None:
    bank, labels, queries = problem(k)
    ours = predict(
        torch.from_numpy(bank), torch.from_numpy(labels), torch.from_numpy(queries), 4, k=k, temperature=temperature
    )
    assert ours.tolist() == brute_force(bank, labels, queries, 4, k, temperature)


def test_chunks_and_lengths_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, labels, queries = (torch.from_numpy(a) for a in problem(1))
    whole = predict(bank, labels, queries, 4)
    monkeypatch.setattr(knn, "SIMILARITIES", 60 * 7)
    lengths = torch.rand(60, 1, dtype=torch.float64) + 0.1
    assert torch.equal(predict(bank * lengths, labels, queries * 1e3, 4), whole)
    for rows in (60, 59, 7, 1):  # the bank in one look, and in many
        monkeypatch.setattr(knn, "BANK_ROWS", rows)
        monkeypatch.setattr(knn, "QUERY_ROWS", max(rows // 2, 1))
        assert torch.equal(predict(bank, labels, queries, 4), whole)
    monkeypatch.setattr(knn, "SIMILARITIES", 1)
    assert torch.equal(predict(bank, labels, queries, 4), whole)


def test_more_neighbours_than_there_are_count_as_all() -> None:
    bank, labels, queries = (torch.from_numpy(a) for a in problem(2))
    assert torch.equal(predict(bank, labels, queries, 4, k=1000), predict(bank, labels, queries, 4, k=60))


def test_a_tiny_temperature_is_the_nearest_neighbour() -> None:
    bank, labels, queries = (
        torch.from_numpy(a).float() if a.dtype == float else torch.from_numpy(a) for a in problem(3)
    )
    cold = predict(bank, labels, queries, 4, k=20, temperature=1e-4)  # exp(1e4) would overflow
    assert torch.equal(cold, predict(bank, labels, queries, 4, k=1))


def test_top1_is_the_share_that_is_right_with_every_query_counted() -> None:
    bank, labels, queries = (torch.from_numpy(a) for a in problem(4))
    truth = torch.from_numpy(np.random.default_rng(5).integers(0, 4, 37))
    right = (predict(bank, labels, queries, 4) == truth).sum().item()
    assert knn_top1(labelled_features(bank, labels), labelled_features(queries, truth)) == pytest.approx(right / 37)
    assert knn_top1(labelled_features(bank, labels), labelled_features(bank, labels), k=1) == 1.0


def test_the_nearest_are_named_by_their_number_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries = F.normalize(torch.randn(50, 6), dim=1), F.normalize(torch.randn(9, 6), dim=1)
    similarity, number = (queries @ bank.T).topk(4, dim=1)
    for rows, entries in ((2**16, 2**25), (7, 40)):
        monkeypatch.setattr("moco.evaluators.knn.BANK_ROWS", rows)
        monkeypatch.setattr("moco.evaluators.knn.SIMILARITIES", entries)
        found = nearest(Features.of(3 * bank), queries, 4)
        torch.testing.assert_close(found[0], similarity)
        assert (found[1] == number).all()
    assert nearest(Features.of(bank), queries, 99)[1].shape == (9, 50)
