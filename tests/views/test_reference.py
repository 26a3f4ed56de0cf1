"""The readable views equal torchvision's, operation by operation and as a whole, for drawn parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from torch import Tensor

from moco.config import ViewsConfig
from moco.views import colour, reference
from moco.views.parameters import BRIGHTNESS, CONTRAST, SATURATION, Parameters, centre, draw
from moco.views.pipelines import Pipeline, pipeline
from moco.views.ragged import Ragged

# Largest difference of a pixel in [0, 1]; all are roundings of float32 (6e-8 near 1).
EXACT = 1e-6  # the same few operations
RESAMPLED = 1e-5  # torchvision computes its taps in float32, here they are float64: at 200 px a tap is off by 1e-5
BLURRED = 2e-6  # sums of up to 13 x 13 taps
HUE = 2e-6  # torchvision goes by hue, saturation, value and back
WHOLE = 2e-5  # a resampled view, its error multiplied by up to 1.4 three times

SIZES = [(1, 1), (1, 30), (30, 1), (5, 7), (40, 64), (64, 64), (75, 100), (143, 190), (90, 31), (33, 200)]


@pytest.fixture(scope="module")
def images(pictures: Callable[..., Any]) -> list[np.ndarray]:
    return pictures(0, [size for size in SIZES for _ in range(4)])


@pytest.fixture(scope="module")
def source(ragged: Callable[..., Ragged], images: list[np.ndarray]) -> Ragged:
    return ragged(images)


@pytest.fixture
def views() -> Tensor:
    """(40, 3, 24, 24) in [0, 1]: noise, greys, ties, black and white."""
    views = torch.rand(40, 3, 24, 24)
    views[8:12] = views[8:12, :1].expand(-1, 3, -1, -1)
    views[12:16, 1] = views[12:16, 0]
    views[16:20, 2] = views[16:20, 1]
    views[20:24] = views[20:24].round()
    return views


def tensor(image: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) as float32 (3, H, W) in [0, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255


def drawn(source: Ragged, p: Pipeline, epoch: int = 0) -> tuple[np.ndarray, Parameters]:
    numbers = np.arange(len(source))
    return numbers, draw(p, source.heights, source.widths, numbers, 0, epoch, 0)


@pytest.mark.parametrize("size", [1, 7, 32, 64])
def test_crop_is_resized_crop(source: Ragged, images: list[np.ndarray], size: int) -> None:
    for epoch in range(3):
        numbers, parameters = drawn(source, Pipeline(size), epoch)
        views = reference.crop_resize(source, numbers, parameters, size)
        for i, image in enumerate(images):
            top, left, height, width = (int(x) for x in parameters.box[i])
            expected = TF.resized_crop(tensor(image), top, left, height, width, [size, size], antialias=True)
            assert (views[i] - expected).abs().max() < RESAMPLED


@pytest.mark.parametrize("size", [7, 32, 64])
def test_centre_is_resize_and_center_crop(source: Ragged, images: list[np.ndarray], size: int) -> None:
    chosen = np.flatnonzero(np.minimum(source.heights, source.widths) > 1)
    parameters = centre(size, source.heights[chosen], source.widths[chosen])
    views = reference.crop_resize(source, chosen, parameters, size)
    for view, i in zip(views, chosen):
        resized = TF.resize(tensor(images[i]), round(size * 256 / 224), antialias=True)
        assert (view - TF.center_crop(resized, [size, size])).abs().max() < RESAMPLED


def test_greyscale(views: Tensor) -> None:
    assert (colour.greyscale(views) - TF.rgb_to_grayscale(views)).abs().max() < EXACT


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high", "tolerance"),
    [
        (colour.adjust_brightness, TF.adjust_brightness, 0.0, 2.0, EXACT),
        (colour.adjust_contrast, TF.adjust_contrast, 0.0, 2.0, EXACT),
        (colour.adjust_saturation, TF.adjust_saturation, 0.0, 2.0, EXACT),
        (colour.adjust_hue, TF.adjust_hue, -0.5, 0.5, HUE),
    ],
)
def test_colours(views: Tensor, ours: Any, theirs: Any, low: float, high: float, tolerance: float) -> None:
    for _ in range(3):
        factors = low + (high - low) * torch.rand(len(views))
        results = ours(views, factors)
        for view, factor, result in zip(views, factors, results):
            assert (result - theirs(view, float(factor))).abs().max() < tolerance


def test_blur(views: Tensor) -> None:
    sigma = np.random.default_rng(0).uniform(0.1, 4.0, len(views)).astype(np.float32)
    kernels, radius = reference.blur_kernels(sigma, 24)
    matrix = reference.blur_matrix(torch.from_numpy(kernels), 24)[:, None]
    results = matrix @ views @ matrix.transpose(-1, -2)
    for i, view in enumerate(views):
        taps = int(2 * radius[i] + 1)
        assert (results[i] - TF.gaussian_blur(view, [taps, taps], [float(sigma[i])] * 2)).abs().max() < BLURRED


def test_a_blur_reaches_three_sigmas_whatever_else_is_in_the_batch() -> None:
    sigma = np.array([0.1, 0.5, 1.0, 2.0], np.float32)
    kernels, radius = reference.blur_kernels(sigma, 224)
    assert radius.tolist() == [1, 2, 3, 6]
    for i in range(4):
        alone, _ = reference.blur_kernels(sigma[i : i + 1], 224)
        middle = kernels.shape[1] // 2
        assert np.array_equal(kernels[i, middle - radius[i] : middle + radius[i] + 1], alone[0])
        assert np.count_nonzero(kernels[i]) <= alone.size


def test_normalise(views: Tensor) -> None:
    p = Pipeline(24)
    expected = TF.normalize(views, list(p.mean), list(p.std))
    assert (reference.normalise(views, p) - expected).abs().max() < EXACT


def test_flip(source: Ragged) -> None:
    numbers, parameters = drawn(source, Pipeline(16))
    flipped = replace(parameters, flip=~parameters.flip)
    one, other = (reference.apply(source, numbers, each, Pipeline(16)) for each in (parameters, flipped))
    assert torch.equal(one, TF.hflip(other))


def test_solarise(views: Tensor) -> None:
    for some in (views, torch.full_like(views, 0.5)):
        assert torch.equal(colour.solarise(some), TF.solarize(some, 0.5))


@pytest.mark.parametrize(("name", "solarise_p"), [("v1", 0.0), ("v2", 0.0), ("crop_flip", 0.0), ("v2", 0.5)])
@pytest.mark.parametrize("size", [8, 40])
def test_whole_view(source: Ragged, images: list[np.ndarray], name: str, solarise_p: float, size: int) -> None:
    """torchvision's operations in the papers' order, told the drawn parameters."""
    p = replace(pipeline(ViewsConfig(pipeline=name, size=size)), mean=(0, 0, 0), std=(1, 1, 1), blur_sigma=(0.1, 2.0))
    p = replace(p, solarise_p=solarise_p)
    for epoch in range(3):
        numbers, parameters = drawn(source, p, epoch)
        views = reference.apply(source, numbers, parameters, p)
        for i, image in enumerate(images):
            assert (views[i] - _torchvision(image, parameters, i, p)).abs().max() < WHOLE


def _torchvision(image: np.ndarray, parameters: Parameters, i: int, p: Pipeline) -> Tensor:
    top, left, height, width = (int(x) for x in parameters.box[i])
    view = TF.resized_crop(tensor(image), top, left, height, width, [p.size, p.size], antialias=True).clamp(0, 1)
    if p.grey_first and parameters.grey[i]:
        view = TF.rgb_to_grayscale(view, 3)
    if parameters.jitter[i]:
        for operation in parameters.order[i]:
            view = _adjusted(view, int(operation), float(parameters.factors[i, operation]))
    if not p.grey_first and parameters.grey[i]:
        view = TF.rgb_to_grayscale(view, 3)
    if parameters.sigma[i] > 0:
        _, radius = reference.blur_kernels(parameters.sigma[i : i + 1], p.size)
        taps = int(2 * radius[0] + 1)
        view = TF.gaussian_blur(view, [taps, taps], [float(parameters.sigma[i])] * 2)
    if parameters.solarise[i]:
        view = TF.solarize(view, 0.5)
    if parameters.flip[i]:
        view = TF.hflip(view)
    return TF.normalize(view, list(p.mean), list(p.std))


def _adjusted(view: Tensor, operation: int, factor: float) -> Tensor:
    if operation == BRIGHTNESS:
        return TF.adjust_brightness(view, factor)
    if operation == CONTRAST:
        return TF.adjust_contrast(view, factor)
    if operation == SATURATION:
        return TF.adjust_saturation(view, factor)
    return TF.adjust_hue(view, factor)
