"""Every random choice has the distribution that the papers (and torchvision) give it, and depends on nothing else.

Seeds are fixed, so a test passes always or never; LEAST is how unlikely a sample may look.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import RandomResizedCrop

from moco.config import ViewsConfig
from moco.errors import UserError
from moco.views.parameters import Parameters, draw
from moco.views.pipelines import Pipeline, pipeline

LEAST = 1e-3
N = 4000


def preset(name: str, size: int = 224) -> Pipeline:
    return pipeline(ViewsConfig(pipeline=name, size=size))


def drawn(p: Pipeline, height: int = 143, width: int = 190, n: int = N, seed: int = 0) -> Parameters:
    return draw(p, np.full(n, height, np.int32), np.full(n, width, np.int32), np.arange(n), seed, 0, 0)


@pytest.mark.parametrize(("height", "width"), [(143, 190), (224, 224), (60, 400), (300, 40)])
def test_crops_are_torchvisions(height: int, width: int) -> None:
    """Area, ratio and position; the last two sizes are so long that whole attempts fail."""
    p = preset("crop_flip")
    box = drawn(p, height, width).box
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    other = np.array([RandomResizedCrop.get_params(image, list(p.scale), list(p.ratio)) for _ in range(N)])
    measures = {
        "area": lambda b: b[:, 2] * b[:, 3],
        "ratio": lambda b: b[:, 3] / b[:, 2],
        "top": lambda b: b[:, 0],
        "left": lambda b: b[:, 1],
        "bottom": lambda b: b[:, 0] + b[:, 2],
        "right": lambda b: b[:, 1] + b[:, 3],
    }
    for name, measure in measures.items():
        assert stats.ks_2samp(measure(box), measure(other), method="asymp").pvalue > LEAST, name


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 1), (3, 2), (143, 190)])
def test_crops_lie_inside(height: int, width: int) -> None:
    parameters = drawn(preset("v2"), height, width)
    top, left, tall, wide = parameters.box.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (tall >= 1).all()
    assert (wide >= 1).all()
    assert (top + tall <= height).all()
    assert (left + wide <= width).all()
    assert np.array_equal(parameters.window, np.stack([top, left, top + tall, left + wide], 1))


@pytest.mark.parametrize("name", ["v1", "v2", "v2_no_blur", "crop_flip"])
def test_probabilities(name: str) -> None:
    p, parameters = preset(name), drawn(preset(name))
    done = {
        "jitter": (parameters.jitter, p.jitter_p),
        "grey": (parameters.grey, p.grey_p),
        "blur": (parameters.sigma > 0, p.blur_p),
        "flip": (parameters.flip, p.flip_p),
    }
    for what, (happened, probability) in done.items():
        assert stats.binomtest(int(happened.sum()), N, probability).pvalue > LEAST, what


def test_solarising_leaves_every_other_draw_as_it_was() -> None:
    without, with_it = drawn(preset("v2")), drawn(replace(preset("v2"), solarise_p=0.2))
    assert not without.solarise.any()
    assert stats.binomtest(int(with_it.solarise.sum()), N, 0.2).pvalue > LEAST
    assert _equal(replace(with_it, solarise=without.solarise), without)


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_factors_are_uniform(name: str) -> None:
    p, parameters = preset(name), drawn(preset(name))
    for operation, (strength, middle) in enumerate(zip(p.jitter, (1, 1, 1, 0))):
        expected = stats.uniform(middle - strength, 2 * strength)
        assert stats.kstest(parameters.factors[:, operation], expected.cdf).pvalue > LEAST, operation


def test_factors_have_no_sign_however_strong_the_jitter() -> None:
    """As torchvision has it: from 0 up to 1 and the strength."""
    factors = drawn(replace(preset("v2"), jitter=(1.5, 0.4, 3.0, 0.1))).factors
    for column, (low, high) in enumerate(((0.0, 2.5), (0.6, 1.4), (0.0, 4.0))):
        assert low <= factors[:, column].min() < low + 0.05 and high - 0.05 < factors[:, column].max() <= high


@pytest.mark.parametrize("size", [224, 64])
def test_sigmas_are_uniform_and_scale_with_the_view(size: int) -> None:
    parameters = drawn(preset("v2", size))
    sigma = parameters.sigma[parameters.sigma > 0] * 224 / size
    assert stats.kstest(sigma, stats.uniform(0.1, 1.9).cdf).pvalue > LEAST


def test_all_orders_of_the_jitter_are_as_likely() -> None:
    orders = drawn(preset("v2")).order
    assert np.array_equal(np.sort(orders, 1), np.tile(np.arange(4), (N, 1)))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > LEAST


def test_choices_are_independent() -> None:
    parameters = drawn(replace(preset("v2"), solarise_p=0.5))
    columns = [parameters.box, parameters.factors, parameters.order, parameters.sigma[:, None]]
    columns += [
        choice[:, None] for choice in (parameters.jitter, parameters.grey, parameters.flip, parameters.solarise)
    ]
    correlation = np.corrcoef(np.concatenate(columns, axis=1, dtype=np.float64), rowvar=False)
    related = np.zeros_like(correlation, dtype=bool)
    related[:4, :4] = True  # a large box can't lie far down
    related[8:12, 8:12] = True  # an order is a permutation
    np.fill_diagonal(related, True)
    assert np.abs(correlation[~related]).max() < 5 / np.sqrt(N)  # standard errors


def test_a_row_depends_on_seed_epoch_image_and_view_alone() -> None:
    p = preset("v2")
    rng = np.random.default_rng(0)
    heights, widths = rng.integers(1, 300, (2, 500)).astype(np.int32)

    def of(images: np.ndarray, seed: int = 1, epoch: int = 2, view: int = 0) -> Parameters:
        return draw(p, heights[images], widths[images], images, seed, epoch, view)

    every = of(np.arange(500))
    some = rng.permutation(500)[:77]
    assert _equal(of(some), every.rows(some))
    for i in (0, 3, 499):
        assert _equal(of(np.array([i])), every.rows(slice(i, i + 1)))
    for change in ({"seed": 2}, {"epoch": 3}, {"view": 1}):
        other = of(np.arange(500), **change)
        assert (other.factors != every.factors).all(axis=1).mean() > 0.99


def _equal(a: Parameters, b: Parameters) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def test_presets_are_the_papers() -> None:
    """v1: section 3.3 of MoCo; v2: section 2 of MoCo v2 with SimCLR's blur, and its weaker hue."""
    v1, v2 = preset("v1"), preset("v2")
    assert v1 == Pipeline(
        size=224, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), jitter=(0.4, 0.4, 0.4, 0.4), jitter_p=1.0, grey_p=0.2,
        grey_first=True, blur_p=0.0, flip_p=0.5, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    )  # fmt: skip
    assert v2 == Pipeline(
        size=224, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, grey_p=0.2,
        grey_first=False, blur_p=0.5, blur_sigma=(0.1, 2.0), flip_p=0.5, mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )  # fmt: skip
    assert preset("crop_flip") == Pipeline(size=224)
    assert preset("v2_no_blur").blur_p == 0


def test_an_unknown_pipeline_names_the_nearest() -> None:
    with pytest.raises(UserError, match="v2"):
        preset("v2_noblur")
