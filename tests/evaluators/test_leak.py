"""The leak diagnostic: what counts as a negative, that nothing moves, and that a real leak is seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.config import RuntimeConfig, ViewsConfig
from moco.evaluators.leak import BATCH, RUNNING, SHUFFLED, LeakMonitor, by_batch_statistics, found_elsewhere
from moco.model.moco import MoCo
from moco.runtime import Runtime
from moco.views.pipelines import pipeline
from moco.views.ragged import Ragged

SIDE = 24


def pictures(count: int) -> Ragged:
    """Each of a colour of its own, with noise."""
    rng = np.random.default_rng(0)
    colours = rng.integers(20, 236, (count, 1, 1, 3)) + rng.integers(-20, 20, (count, SIDE, SIDE, 3))
    sides = np.full(count, SIDE, np.int32)
    return Ragged(torch.from_numpy(colours.astype(np.uint8).reshape(-1)), np.arange(count) * SIDE**2 * 3, sides, sides)


def monitor(model: MoCo, group: int, threads: int = 1, count: int = 48) -> LeakMonitor:
    runtime = Runtime(RuntimeConfig(device="cpu", precision="float32", threads=threads))
    return LeakMonitor(model, pictures(count), pipeline(ViewsConfig("crop_flip", 16)), group, runtime, seed=0)


def small(bn_splits: int = 1) -> MoCo:
    torch.manual_seed(0)
    return MoCo("timm/test_resnet", 16, 64, bn_splits=bn_splits, mlp=True).train()


class Colour(nn.Module):
    """The mean colour of a picture, beside a batch-norm that makes nothing of it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) + 0 * self.norm(images).mean((2, 3))


class Company(nn.Module):
    """What batch-norm took away: in training the statistics of the batch, the same for all in it, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, eps=1e-9)

    def forward(self, images: Tensor) -> Tensor:
        normal = self.norm(images)
        scale = images.std((0, 2, 3), keepdim=True) / normal.std((0, 2, 3), keepdim=True)
        return (images - normal * scale).mean((2, 3))


def with_backbone(backbone: nn.Module) -> MoCo:
    model = MoCo(backbone, 3, 64, size=16)
    for encoder in (model.encoder_q, model.encoder_k):
        encoder.head = nn.Identity()
    return model.train()


def test_keys_that_share_statistics_with_either_are_no_negatives() -> None:
    q = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]), dim=1)
    own = torch.tensor([0, 0, 1, 1])
    assert found_elsewhere(q, q, own, own) == 1  # the twin in each group would beat nobody: it isn't asked
    worse = q.clone()
    worse[2] = q[0]  # a key of the other group is exactly query 0's own place: a tie
    assert found_elsewhere(q, worse, own, own) == 0.5  # query 0 ties, query 2 finds another's key
    shuffled = torch.tensor([2, 3, 2, 1])  # key 2 is made in the same group as key 0: it is none of query 0's
    assert found_elsewhere(q, worse, own, shuffled) == 0.75


@pytest.mark.parametrize("splits", [1, 2])
def test_nothing_moves_and_no_generator_is_drawn_from(splits: int) -> None:
    model = small(splits)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    settings = [(m.track_running_stats, getattr(m, "splits", 1)) for m in model.modules() if hasattr(m, "running_mean")]
    generator = torch.get_rng_state(), np.random.get_state()[1].tolist()
    found = dict(monitor(model, 8)())
    assert set(found) == {BATCH, SHUFFLED, RUNNING} and all(0 <= value <= 1 for value in found.values())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    after = [(m.track_running_stats, getattr(m, "splits", 1)) for m in model.modules() if hasattr(m, "running_mean")]
    assert after == settings
    assert torch.equal(torch.get_rng_state(), generator[0]) and np.random.get_state()[1].tolist() == generator[1]


def test_the_same_bits_whatever_the_number_of_threads() -> None:
    model = small(2)
    assert dict(monitor(model, 8, 1)()) == dict(monitor(model, 8, 2)())


def test_by_batch_statistics_is_training_mode_without_its_traces() -> None:
    model = small()
    images = torch.randn(8, 3, 16, 16)
    with by_batch_statistics(model), torch.no_grad():
        found = model.encoder_q(images)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        trained = model.encoder_q(images)
    assert torch.equal(found, trained)
    assert not all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_a_network_that_goes_by_the_company_leaks_and_one_that_looks_does_not() -> None:
    leaking, looking = (dict(monitor(with_backbone(b), 8)()) for b in (Company(), Colour()))
    assert leaking[BATCH] > 0.8 and leaking[SHUFFLED] < 0.3 and leaking[RUNNING] < 0.3
    assert looking[BATCH] == looking[SHUFFLED] == looking[RUNNING] > 0.5 or min(looking.values()) > 0.5


def test_without_batch_norm_or_with_too_few_images_there_is_nothing_to_say() -> None:
    plain = with_backbone(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert list(monitor(plain, 8)()) == []
    assert list(monitor(small(), 32, count=64)()) == []
