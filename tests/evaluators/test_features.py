"""Extraction leaves the backbone exactly as it was, and takes every image once; what is kept is what was seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moco.config import ViewsConfig
from moco.errors import UserError
from moco.evaluators import features as module
from moco.evaluators.features import Features
from moco.evaluators.frozen import Frozen, Labelled, evaluating
from moco.evaluators.heads import Standard
from moco.evaluators.proof import fingerprint
from moco.runtime import Runtime
from moco.views.make import evaluation_view
from moco.views.pipelines import Scaling

CPU = torch.device("cpu")


def test_the_mode_of_every_part_is_put_back(backbone: Any) -> None:
    backbone.train()
    backbone.norm.eval()
    with evaluating(backbone):
        assert not any(part.training for part in backbone.modules())
    assert backbone.training and backbone.dropout.training and not backbone.norm.training
    with pytest.raises(KeyError), evaluating(backbone):
        raise KeyError
    assert backbone.training and not backbone.norm.training


def test_no_gradient_and_no_buffer_moves(frozen: Frozen, train: Any) -> None:
    backbone = frozen.backbone.train().requires_grad_(True)
    before = fingerprint(backbone)
    features = frozen.features(train.images, batch_size=16).values[0]
    assert not features.requires_grad and features.dtype == torch.float32 and features.shape == (50, 8)
    assert fingerprint(backbone) == before and backbone.training
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("count", "batch"), [(50, 16), (48, 16), (5, 16), (1, 1)])
def test_every_image_once_in_order_the_partial_batch_too(frozen: Frozen, train: Any, count: int, batch: int) -> None:
    seen: list[int] = []

    def view(source: Any, images: NDArray[np.int64]) -> Tensor:
        seen.extend(images.tolist())
        return torch.as_tensor(images, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 12, 12) / 50

    features = frozen.features(train.images, view, np.arange(count), batch_size=batch)
    assert sorted(seen) == list(range(count)) and len(features) == count
    assert max(frozen.backbone.batches) <= batch  # type: ignore[arg-type, type-var]
    one_by_one = torch.cat([frozen.backbone(view(None, np.array([i]))) for i in range(count)])
    torch.testing.assert_close(features.values[0], one_by_one)


def test_the_batch_size_changes_nothing(frozen: Frozen, val: Any) -> None:
    whole = frozen.features(val.images).values[0]
    torch.testing.assert_close(frozen.features(val.images, batch_size=7).values[0], whole)
    torch.testing.assert_close(frozen.backbone(evaluation_view(val.images, np.arange(23), 12)), whole)


def test_a_progress_bar_changes_nothing(frozen: Frozen, val: Any) -> None:
    whole = frozen.features(val.images).values
    assert torch.equal(frozen.features(val.images, title="features").values, whole)


def test_several_views_and_some_of_the_images(frozen: Frozen, val: Any) -> None:
    views = [frozen.centre, frozen.crop(0, 0), frozen.crop(0, 1)]
    some = np.array([2, 3, 11])
    features = frozen.features(val.images, views, some)
    assert features.values.shape == (3, 3, 8) and len(features) == 3
    torch.testing.assert_close(features.values[0], frozen.features(val.images).values[0, some])
    assert not torch.equal(features.values[1], features.values[2])


def filled(values: Tensor) -> Features:
    made = Features.empty(*values.shape, CPU)
    for view, rows in enumerate(values):
        made.put(view, 0, rows[:10])
        made.put(view, 10, rows[10:])
    return made


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_many_are_kept_in_half_precision_in_memory_or_in_a_file_to_the_same_bits(
    share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HOST_SHARE", share)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    values = 1e6 * torch.randn(2, 50, 7, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(module, "EXACT_BYTES", values.nbytes)
    assert torch.equal(filled(values).values, values) and filled(values).exact
    monkeypatch.setattr(module, "EXACT_BYTES", values.nbytes - 1)
    few = filled(values)
    assert not few.exact and few.values.dtype == torch.float16
    torch.testing.assert_close(few.rows(torch.arange(100)), values.flatten(0, 1), rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(
        few.rows(torch.tensor([51, 3])), torch.stack([values[1, 1], values[0, 3]]), rtol=1e-3, atol=1
    )
    assert torch.equal(torch.cat([block for _, block in few.blocks(1, rows=9)]), few.rows(torch.arange(50, 100)))
    assert [first for first, _ in few.blocks(1, rows=9)] == [0, 9, 18, 27, 36, 45]
    assert list(tmp_path.iterdir()) == []  # the file has no name
    standard, exact = Standard.of(few), Standard.of(Features.of(values))
    torch.testing.assert_close(standard.mean, exact.mean, rtol=1e-2, atol=1e2)
    torch.testing.assert_close(standard.inverse, exact.inverse, rtol=1e-3, atol=0)


def test_no_room_anywhere_is_one_line_that_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT_BYTES", 0)
    monkeypatch.setattr(module, "HOST_SHARE", 0.0)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    with pytest.raises(UserError, match="set TMPDIR to a folder with room"):
        Features.empty(1, 10, 10, CPU)


def test_what_half_precision_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT_BYTES", 0)
    made = Features.empty(1, 4, 2, CPU)
    made.put(0, 0, torch.ones(2, 2))
    with pytest.raises(UserError, match="differ 65,000-fold"):
        made.put(0, 2, torch.full((2, 2), 1e6))


def test_a_first_batch_of_zeros_says_nothing_of_the_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT_BYTES", 0)
    made = Features.empty(1, 4, 2, CPU)
    made.put(0, 0, torch.zeros(2, 2))
    made.put(0, 2, torch.full((2, 2), 3.0))
    assert made.rows(torch.arange(4)).flatten().tolist() == [0, 0, 0, 0, 3, 3, 3, 3]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_a_line(value: float) -> None:
    made = Features.empty(1, 4, 2, CPU)
    with pytest.raises(UserError, match="not finite"):
        made.put(0, 2, torch.tensor([[1.0, value], [0.0, 0.0]]))


def test_centre_views_are_zoomed_and_crops_are_as_in_training(runtime: Runtime, train: Labelled) -> None:
    """FixRes section 3: crops already show things larger."""
    frozen = Frozen.of(nn.Flatten(), ViewsConfig(size=16, eval_zoom=1.5, mean=[0.5] * 3, std=[0.5] * 3), runtime)
    images = np.arange(3)
    assert frozen.centre(train.images, images).shape == (3, 3, 24, 24)
    assert frozen.crop(0, 0)(train.images, images).shape == (3, 3, 16, 16)
    assert frozen.scaling == Scaling((0.5,) * 3, (0.5,) * 3)
    plain = Frozen(nn.Flatten(), 16, runtime)
    assert plain.crop(0, 0)(train.images, images).shape == plain.centre(train.images, images).shape
