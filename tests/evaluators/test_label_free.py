"""The label-free proxies, on features whose rank and whose agreement are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from moco.config import RuntimeConfig, ViewsConfig
from moco.evaluators.frozen import Frozen
from moco.evaluators.label_free import IMAGES, RIDGE, VIEWS, LabelFreeMonitor, lidar, rank_of_features, view_agreement
from moco.model.moco import MoCo
from moco.runtime import Runtime
from moco.views.pipelines import pipeline
from moco.views.ragged import Ragged


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_rankme_counts_equal_directions(rank: int) -> None:
    features = torch.eye(16)[torch.arange(16 * rank) % rank]
    assert rank_of_features(features) == pytest.approx(rank, rel=1e-4)


def test_rankme_is_equation_1_of_its_paper() -> None:
    features = normal(40, 12) * torch.arange(1.0, 13)
    singular = np.linalg.svd(features.double().numpy(), compute_uv=False)
    share = singular / singular.sum() + 1e-7
    assert rank_of_features(features) == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-9)
    assert rank_of_features(torch.zeros(5, 3)) == 1


def test_lidar_is_the_rank_of_the_lda_matrix() -> None:
    means, noise = normal(30, 8) * torch.arange(1.0, 9), normal(4, 30, 8, seed=1)
    features = (means + noise).double().numpy()
    centres = features.mean(0)
    within = np.einsum("vnf,vng->fg", features - centres, features - centres) / (4 * 30) + RIDGE * np.eye(8)
    between = np.cov(centres.T, bias=True)
    values, vectors = np.linalg.eigh(within)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    spectrum = np.linalg.eigvalsh(root @ between @ root)
    share = spectrum / spectrum.sum() + 1e-7
    assert lidar(torch.from_numpy(features)) == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-6)


def test_lidar_does_not_count_what_the_views_of_one_image_disagree_on() -> None:
    means = torch.zeros(200, 8)
    means[:, :3] = normal(200, 3)
    features = means + torch.cat([0.1 * normal(4, 200, 3, seed=1), 10 * normal(4, 200, 5, seed=2)], 2)
    assert lidar(features) == pytest.approx(3, abs=0.4)
    assert rank_of_features(features.flatten(0, 1)) > 4  # RankMe counts the noise


def test_agreement_is_the_share_of_images_found_again() -> None:
    features = normal(50, 8)
    assert view_agreement(torch.stack([features, features])) == 1
    assert view_agreement(torch.stack([features, features.roll(1, 0)])) == 0
    assert view_agreement(torch.ones(2, 50, 8)) == 0  # a tie is no find


def test_the_monitor_moves_nothing_and_draws_from_no_generator() -> None:
    pixels = torch.randint(0, 256, (20 * 24 * 24 * 3,), dtype=torch.uint8)
    sides = np.full(20, 24, np.int32)
    source = Ragged(pixels, np.arange(20) * 24 * 24 * 3, sides, sides)
    model = MoCo("timm/test_resnet", 16, 64).train()
    runtime = Runtime(RuntimeConfig(device="cpu", precision="float32", threads=1))
    asked = LabelFreeMonitor(Frozen(model.encoder_q.backbone, 16, runtime), source, pipeline(ViewsConfig(size=16)), 0)
    before, generator = {n: v.clone() for n, v in model.state_dict().items()}, torch.get_rng_state()
    found, again = dict(asked()), dict(asked())
    assert found == again and list(found) == ["feature_rank", "lidar", "view_top1"]
    assert min(found["feature_rank"], found["lidar"]) >= 1 and 0 <= found["view_top1"] <= 1
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(part.training for part in model.modules())
    assert asked.looks == VIEWS * min(20, IMAGES)
