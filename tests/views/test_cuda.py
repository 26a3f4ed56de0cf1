"""The GPU's views give the readable version's pixels: on the processor always, on a GPU where there is one."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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


def screenshots(device: str, count: int = 256, short: int = 501) -> Ragged:
    """Photographs, one panorama and one tall screenshot among them, at the short side that ImageNet is stored at."""
    rng = np.random.default_rng(0)
    ratio = np.exp(rng.uniform(-0.4, 0.4, count))
    heights = np.where(ratio > 1, short, short / ratio).astype(np.int32)
    widths = np.where(ratio > 1, short * ratio, short).astype(np.int32)
    heights[3], widths[3] = short, 12 * short
    heights[5], widths[5] = 12 * short, short
    sizes = heights.astype(np.int64) * widths * 3
    pixels = torch.empty(int(sizes.sum()), dtype=torch.uint8, device=device)
    if device == "cpu":
        pixels.random_(generator=torch.Generator().manual_seed(0))
    return Ragged(pixels, np.cumsum(sizes) - sizes, heights, widths)


class PeakBytes(TorchDispatchMode):
    """The most bytes that results of operations held at once, whatever the device."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._held = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self._held += storage.nbytes()
        self.peak = max(self.peak, self._held)
        weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())

    def _gone(self, key: int, size_bytes: int) -> None:
        self._known.discard(key)
        self._held -= size_bytes


def test_a_panorama_and_a_tall_screenshot_do_not_widen_the_whole_batch() -> None:
    """Old: 152 GB for this batch. What the windows cost one by one is 1.0 here; without the two it was 2.0 padded."""
    there, images = screenshots("meta"), np.arange(256)
    drawn = centre(224, there.heights, there.widths)
    with PeakBytes() as memory:
        assert cuda.apply(there, images, drawn, Pipeline(224)).shape == (256, 3, 224, 224)
    print(memory.peak/1e9)
    assert memory.peak < 64 * len(there.pixels) / 3
