"""The spread of known clouds, and how far the encoders are apart."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from moco.evaluators.health import key_lag, spread
from moco.model.moco import MoCo


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


def test_the_lag_is_the_distance_of_the_encoders_in_units_of_their_length() -> None:
    model = MoCo("timm/test_resnet", 16, 64)
    assert key_lag(model) == 0
    with torch.no_grad():
        for parameter in [*model.encoder_q.backbone.parameters(), *model.encoder_q.head.parameters()]:
            parameter.mul_(1.25)
    assert key_lag(model) == pytest.approx(0.25, rel=1e-5)
