"""Extraction leaves the backbone exactly as it was, and takes every image once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco.evaluate.features import extract, features_of, frozen
from moco.evaluate.protocol import fingerprint
from moco.runtime import Runtime
from moco.views.make import evaluation_view


def test_the_mode_of_every_part_is_put_back(backbone: Any) -> None:
    backbone.train()
    backbone.norm.eval()
    with frozen(backbone):
        assert not any(part.training for part in backbone.modules())
    assert backbone.training and backbone.dropout.training and not backbone.norm.training
    with pytest.raises(KeyError), frozen(backbone):
        raise KeyError
    assert backbone.training and not backbone.norm.training


def test_no_gradient_and_no_buffer_moves(backbone: Any, train: Any, runtime: Runtime) -> None:
    backbone.train().requires_grad_(True)
    before = fingerprint(backbone)
    features = features_of(backbone, train.images, 12, runtime, batch_size=16)
    assert not features.requires_grad and features.dtype == torch.float32 and features.shape == (50, 8)
    assert fingerprint(backbone) == before and backbone.training
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("count", "batch"), [(50, 16), (48, 16), (5, 16), (1, 1)])
def test_every_image_once_in_order_the_partial_batch_too(
    backbone: Any, runtime: Runtime, count: int, batch: int
) -> None:
    seen: list[int] = []

    def view(images: NDArray[np.int64]) -> Tensor:
        seen.extend(images.tolist())
        return torch.as_tensor(images, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 12, 12) / 50

    features = extract(backbone, count, view, runtime, batch)
    assert sorted(seen) == list(range(count)) and len(features) == count
    assert max(backbone.batches) <= batch
    one_by_one = torch.cat([backbone(view(np.array([i]))) for i in range(count)])
    torch.testing.assert_close(features, one_by_one)


def test_the_batch_size_changes_nothing(backbone: Any, val: Any, runtime: Runtime) -> None:
    whole = features_of(backbone, val.images, 12, runtime)
    torch.testing.assert_close(features_of(backbone, val.images, 12, runtime, batch_size=7), whole)
    torch.testing.assert_close(backbone(evaluation_view(val.images, np.arange(23), 12)), whole)


def test_a_progress_bar_changes_nothing(backbone: Any, val: Any, runtime: Runtime) -> None:
    whole = features_of(backbone, val.images, 12, runtime)
    assert torch.equal(features_of(backbone, val.images, 12, runtime, progress="features"), whole)
