"""Split batch-norm behaves like that many devices, each with its part of the batch."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from moco import MoCo
from moco.errors import UserError
from moco.model.batchnorm import SplitBatchNorm2d, join_batchnorm, split_batchnorm, sync_batchnorm


def test_each_part_is_normalised_as_on_a_device_of_its_own() -> None:
    plain = nn.BatchNorm2d(5)
    nn.init.uniform_(plain.weight)
    nn.init.uniform_(plain.bias)
    split = SplitBatchNorm2d(5, splits=4)
    split.load_state_dict(plain.state_dict())
    images = torch.randn(12, 5, 6, 7)
    devices = [copy.deepcopy(plain) for _ in range(4)]
    expected = torch.cat([device(part) for device, part in zip(devices, images.chunk(4))])
    torch.testing.assert_close(split(images), expected)
    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(device, name) for device in devices]).mean(0)
        torch.testing.assert_close(getattr(split, name), mean)
    assert split.num_batches_tracked == 1


def test_evaluation_and_state_are_those_of_plain_batchnorm() -> None:
    split = SplitBatchNorm2d(5, splits=4)
    split(torch.randn(8, 5, 3, 3))
    plain = nn.BatchNorm2d(5)
    plain.load_state_dict(split.state_dict())
    images = torch.randn(3, 5, 4, 4)
    assert torch.equal(split.eval()(images), plain.eval()(images))


def test_every_batchnorm_of_a_network_is_replaced() -> None:
    network = split_batchnorm(nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm2d(3))), 2)
    assert sum(isinstance(m, SplitBatchNorm2d) for m in network.modules()) == 2


def test_networks_without_batchnorm_stay_and_other_kinds_are_refused() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 3, 1), nn.GroupNorm(1, 3))
    assert split_batchnorm(plain, 2) is plain
    with pytest.raises(UserError, match="SyncBatchNorm"):
        split_batchnorm(nn.Sequential(nn.SyncBatchNorm(3)), 2)


def test_keys_are_shuffled_between_the_parts_and_put_back() -> None:
    torch.manual_seed(1)
    model = MoCo(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 4, 16, bn_splits=2
    )
    images, order = torch.rand(6, 3, 4, 4), torch.tensor([5, 2, 0, 1, 4, 3])
    keys = model.keys(images, order)
    for part in order.chunk(2):  # each part is its own little batch
        alone = MoCo.encode(copy.deepcopy(model.encoder_k), torch.cat([images[part]] * 2))[:3]
        torch.testing.assert_close(keys[part], alone)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    model = MoCo("resnet18", 4, 16, bn_splits=4)
    with pytest.raises(UserError, match="divide"):
        model.keys(torch.rand(6, 3, 32, 32))


def test_a_batch_too_small_for_all_parts_moves_by_those_that_there_are() -> None:
    images = torch.randn(9, 3, 4, 4, generator=torch.Generator().manual_seed(0)) + 1
    split = SplitBatchNorm2d(3, 8).train()
    split(images)
    parts = images.chunk(8)
    assert len(parts) == 5
    torch.testing.assert_close(split.running_mean, 0.1 * torch.stack([part.mean((0, 2, 3)) for part in parts]).mean(0))
    plain = nn.BatchNorm2d(3).train()
    joined = join_batchnorm(SplitBatchNorm2d(3, 8)).train()
    torch.testing.assert_close(joined(images), plain(images))


@pytest.mark.parametrize("name", ["test_efficientnet", "regnety_002", "resnet18"])
def test_shared_statistics_leave_the_network_what_it_was(name: str) -> None:
    """Of one process the sum is its own: the same numbers, activations that sit in timm's batch-norm included."""
    plain = timm.create_model(name, num_classes=0).train()
    shared = sync_batchnorm(copy.deepcopy(plain), lambda tensor: tensor)
    images = torch.randn(4, 3, 64, 64)
    torch.testing.assert_close(shared(images), plain(images), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(shared.eval()(images), plain.eval()(images), rtol=1e-3, atol=1e-3)
    assert shared.state_dict().keys() == plain.state_dict().keys()


def test_batchnorm_that_does_more_is_not_shared() -> None:
    class Louder(nn.BatchNorm2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    with pytest.raises(UserError, match="a Louder can't be shared by processes"):
        sync_batchnorm(nn.Sequential(Louder(3)), lambda tensor: tensor)
