"""The spread of known clouds, and which rows get which sentence."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from moco.evaluators.health import PATIENCE_EPOCHS, diagnose, spread

QUEUE = 4096
GUESSING = math.log(1 + QUEUE)
HEALTHY = {
    "epoch": 10, "loss": 6.0, "contrast_top1": 0.4, "embedding_std": 0.9, "effective_rank": 60.0, "queue_fill": 1.0,
}  # fmt: skip


def sphere(count: int, dim: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(0)), dim=1)


def test_a_uniform_sphere_is_spread_over_every_dimension() -> None:
    std, rank = spread(sphere(5000, 32))
    assert std == pytest.approx(1, abs=0.02) and rank == pytest.approx(32, rel=0.02)


def test_a_point_is_not() -> None:
    std, rank = spread(sphere(1, 32).expand(500, 32))
    assert std == pytest.approx(0, abs=1e-5) and 1 <= rank < 33
    assert spread(torch.zeros(10, 4)) == (0.0, 1.0)


@pytest.mark.parametrize("rank", [1, 2, 7])
def test_the_rank_is_that_of_the_subspace(rank: int) -> None:
    flat = torch.zeros(4000, 32)
    flat[:, :rank] = torch.randn(4000, rank, generator=torch.Generator().manual_seed(1))
    assert spread(flat)[1] == pytest.approx(rank, rel=0.02)


def test_a_healthy_row_gets_no_sentence() -> None:
    assert diagnose(HEALTHY, QUEUE) is None
    assert diagnose({"epoch": 10}, QUEUE) is None


@pytest.mark.parametrize("symptom", [{"embedding_std": 0.05}, {"effective_rank": 1.2}])
@pytest.mark.parametrize("epoch", [1, 10])
def test_collapse(symptom: dict[str, float], epoch: int) -> None:
    sentence = diagnose({**HEALTHY, **symptom, "epoch": epoch}, QUEUE)
    assert sentence is not None and sentence.startswith("collapse") and "--optimizer.lr" in sentence


def test_not_learning() -> None:
    row = {**HEALTHY, "loss": 0.99 * GUESSING}
    sentence = diagnose(row, QUEUE)
    assert sentence is not None and sentence.startswith("not learning") and f"{GUESSING:.2f}" in sentence
    assert diagnose({**row, "epoch": PATIENCE_EPOCHS - 1}, QUEUE) is None
    assert diagnose({**row, "queue_fill": 0.5}, QUEUE) is None
    assert diagnose({**row, "loss": 0.97 * GUESSING}, QUEUE) is None


def test_too_easy() -> None:
    row = {**HEALTHY, "loss": 0.1, "contrast_top1": 0.995}
    sentence = diagnose(row, QUEUE)
    assert sentence is not None and "leaks" in sentence and "bn_splits" in sentence
    assert diagnose({**row, "contrast_top1": 0.9}, QUEUE) is None


def test_every_sentence_is_one_line() -> None:
    rows = ({"embedding_std": 0.0}, {"loss": GUESSING}, {"loss": 0.1, "contrast_top1": 1.0})
    for row in rows:
        sentence = diagnose({**HEALTHY, **row}, QUEUE)
        assert sentence is not None and "\n" not in sentence and ";" in sentence
