"""A preset and what differs from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from moco import presets
from moco.config import Config, ViewsConfig
from moco.config_check import check
from moco.data.sampler import Batch
from moco.errors import UserError
from moco.presets import PLAIN, PRESETS
from moco.views.make import TrainingViews
from moco.views.parameters import draw
from moco.views.pipelines import Crops, Pipeline, pipeline


def test_the_presets_are_the_papers() -> None:
    v1, v2 = (pipeline(ViewsConfig(pipeline=name)) for name in ("v1", "v2"))
    assert (v1.jitter, v1.jitter_p, v1.grey_first, v1.blur_p) == ((0.4, 0.4, 0.4, 0.4), 1.0, True, 0.0)
    assert (v2.jitter, v2.jitter_p, v2.grey_first, v2.blur_p) == ((0.4, 0.4, 0.4, 0.1), 0.8, False, 0.5)
    assert v2.blur_sigma == (0.1, 2.0)
    assert pipeline(ViewsConfig(size=56)).blur_sigma == pytest.approx((0.025, 0.5))


def test_every_field_of_a_preset_is_a_field_of_the_configuration_and_of_the_pipeline() -> None:
    for record in (ViewsConfig, Pipeline):
        assert set(PLAIN) <= {f.name for f in fields(record)}
    assert all(set(values) <= set(PLAIN) for values in PRESETS.values())


def test_a_field_overrides_its_preset_and_nothing_else() -> None:
    """X-ray, microscope and satellite pictures: no colours, no mirror image, other crops."""
    changed = pipeline(ViewsConfig(jitter=[0.2, 0.2, 0.0, 0.0], flip_p=0.0, ratio=[1.0, 1.0], mean=[0.5, 0.5, 0.5]))
    assert (changed.jitter, changed.flip_p, changed.ratio, changed.mean) == (
        (0.2, 0.2, 0.0, 0.0), 0.0, (1.0, 1.0), (0.5, 0.5, 0.5),
    )  # fmt: skip
    plain = pipeline(ViewsConfig())
    assert (changed.grey_p, changed.blur_p, changed.std) == (plain.grey_p, plain.blur_p, plain.std)
    size = np.full(64, 100, np.int32)
    drawn = draw(changed, size, size, np.arange(64), 0, 0, 0)
    assert not drawn.flip.any()
    assert (drawn.box[:, 2] == drawn.box[:, 3]).all()


def test_a_new_preset_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(presets.PRESETS, "x_ray", {"jitter": (0.3, 0.3, 0.0, 0.0), "jitter_p": 0.5, "flip_p": 0.0})
    config = Config(views=ViewsConfig(pipeline="x_ray"))
    check(config)
    assert pipeline(config.views).flip_p == 0.0


@pytest.mark.parametrize(
    ("views", "said"),
    [
        (ViewsConfig(pipeline="v3"), "views.pipeline is 'v3': valid: crop_flip, v1, v2"),
        (ViewsConfig(flip_p=1.5), r"views\.flip_p is 1\.5, give a probability"),
        (ViewsConfig(solarise_p=-0.1), r"views\.solarise_p is -0\.1, give a probability"),
        (ViewsConfig(jitter=[0.4]), r"views\.jitter has 1 numbers, give 4"),
        (ViewsConfig(jitter=[0.4, 0.4, 0.4, 0.9]), "half a turn"),
        (ViewsConfig(ratio=[2.0, 1.0]), "the smaller one first"),
        (ViewsConfig(std=[0.0, 1.0, 1.0]), r"views\.std is"),
    ],
)
def test_what_cant_be_right_is_said_before_anything_runs(views: ViewsConfig, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check(Config(views=views))


def test_the_first_epochs_have_smaller_views(ragged: Callable[..., Any], pictures: Callable[..., Any]) -> None:
    source = ragged(pictures(0, [(40, 50)] * 4))
    config = ViewsConfig(size=32, early_size=16, early_epochs=2)
    full, early = (TrainingViews(source, Crops.of(ViewsConfig(size=size)), 3) for size in (32, 16))
    for epoch, same in enumerate((early, early, full, full)):
        batch = Batch(np.arange(4), epoch, 7)
        for found, expected in zip(TrainingViews(source, Crops.of(config), 3)(batch), same(batch), strict=True):
            assert torch.equal(found, expected)


def test_small_crops_are_further_views_of_small_parts(ragged: Callable[..., Any], pictures: Callable[..., Any]) -> None:
    source, images = ragged(pictures(0, [(40, 50)] * 4)), np.arange(4)
    config = ViewsConfig(size=32, small_crops=2, small_size=16, small_scale=[0.1, 0.3])
    crops = Crops.of(config)
    first, second, *small = TrainingViews(source, crops, 3)(Batch(images, 1, 7))
    assert [view.shape[-1] for view in (first, second, *small)] == [32, 32, 16, 16]
    assert not torch.equal(small[0], small[1])
    plain = TrainingViews(source, Crops.of(ViewsConfig(size=32)), 3)(Batch(images, 1, 7))
    assert torch.equal(first, plain[0]) and torch.equal(second, plain[1])
    many = np.arange(1000)
    heights, widths = np.full(1000, 400, np.int32), np.full(1000, 500, np.int32)
    box = draw(crops.at(0, 2), heights, widths, many, 3, 0, 2).box
    shares = box[:, 2] * box[:, 3] / (400 * 500)
    assert 0.09 < shares.min() < 0.12 and 0.28 < shares.max() < 0.31
