"""The GPU's views give the readable version's pixels: on the processor always, on a GPU where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moco.config import ViewsConfig
from moco.views import cuda, reference
from moco.views.parameters import centre, draw
from moco.views.pipelines import Pipeline, pipeline
from moco.views.ragged import Ragged

TOLERANCE = 1e-5  # of normalised float32 pixels: the same operations in another order
GPU = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")],
)


def source(device: str, count: int = 24) -> Ragged:
    rng = np.random.default_rng(0)
    heights, widths = (rng.integers(20, 90, count).astype(np.int32) for _ in range(2))
    sizes = heights.astype(np.int64) * widths * 3
    pixels = torch.from_numpy(rng.integers(0, 256, sizes.sum(), dtype=np.uint8)).to(device)
    return Ragged(pixels, np.cumsum(sizes) - sizes, heights, widths)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("name", ["v1", "v2", "v2_no_blur", "crop_flip"])
def test_views_equal_the_readable_ones(name: str, device: str) -> None:
    images, spec = np.arange(24), pipeline(ViewsConfig(pipeline=name, size=48))
    there, here = source(device), source("cpu")
    for epoch in range(4):
        drawn = draw(spec, here.heights, here.widths, images, seed=1, epoch=epoch, view=0)
        found = cuda.apply(there, images, drawn, spec).cpu()
        difference = (found - reference.apply(here, images, drawn, spec)).abs()
        assert difference.quantile(0.9999) < TOLERANCE
        assert difference.max() < 0.02  # hue jumps where two channels tie to the last bit


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_the_evaluation_view_equals_the_readable_one(device: str) -> None:
    images, here = np.arange(24), source("cpu")
    drawn = centre(48, here.heights, here.widths)
    found = cuda.apply(source(device), images, drawn, Pipeline(48)).cpu()
    torch.testing.assert_close(found, reference.apply(here, images, drawn, Pipeline(48)), atol=TOLERANCE, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu_nothing_waits_for_the_device() -> None:
    there, spec, images = source("cuda"), pipeline(ViewsConfig(size=48)), np.arange(24)
    drawn = [draw(spec, there.heights, there.widths, images, 1, epoch, 0) for epoch in range(2)]
    cuda.apply(there, images, drawn[0], spec)
    torch.cuda.set_sync_debug_mode("error")
    try:
        cuda.apply(there, images, drawn[1], spec)
    finally:
        torch.cuda.set_sync_debug_mode("default")
