"""The GPU's views give the readable version's pixels: on the processor always, on a GPU where there is one."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from moco.config import ViewsConfig
from moco.data.sampler import Batch
from moco.views import cuda, make, reference
from moco.views.parameters import centre, draw
from moco.views.pipelines import Crops, Pipeline, pipeline
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
@pytest.mark.parametrize(
    ("name", "solarise_p"), [("v1", 0.0), ("v2", 0.0), ("v2_no_blur", 0.0), ("crop_flip", 0.0), ("v2", 0.4)]
)
def test_views_equal_the_readable_ones(name: str, solarise_p: float, device: str) -> None:
    images, spec = np.arange(24), pipeline(ViewsConfig(pipeline=name, size=48, solarise_p=solarise_p))
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
    """256 evaluation views of 85 million pixels: at most 24 bytes a pixel; padded to one size they took 324 GB."""
    there, images = screenshots("meta"), np.arange(256)
    drawn = centre(224, there.heights, there.widths)
    with PeakBytes() as memory:
        assert cuda.apply(there, images, drawn, Pipeline(224)).shape == (256, 3, 224, 224)
    assert 3 * len(there.pixels) < memory.peak < 8 * len(there.pixels)


def test_each_view_is_what_its_window_gives_alone() -> None:
    """However the batch is grouped: the order of the images and every pixel stay."""
    here = screenshots("cpu", count=12, short=40)
    images = np.array([5, 0, 3, 7, 3, 11, 1])
    drawn = centre(32, here.heights[images], here.widths[images])
    together = reference.crop_resize(here, images, drawn, 32)
    alone = [reference.crop_resize(here, images[i : i + 1], drawn.rows(slice(i, i + 1)), 32) for i in range(7)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=0)


@given(st.lists(st.tuples(st.integers(1, 9000), st.integers(1, 9000)), min_size=1, max_size=40), st.integers(8, 512))
def test_groups_hold_each_window_once_and_their_padding_is_bounded(sizes: list[tuple[int, int]], size: int) -> None:
    heights, widths = np.array(sizes, np.int32).T
    groups = reference.like_sizes(heights, widths, size)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(sizes)))
    alone = heights.astype(np.int64) * widths + size * (heights.astype(np.int64) + widths)
    for rows in groups:
        h, w = int(heights[rows].max()), int(widths[rows].max())
        assert len(rows) * (h * w + size * (h + w)) <= reference.MOST_PADDING * alone[rows].sum()


def test_random_crops_of_photographs_are_one_group() -> None:
    """One launch for the usual batch."""
    here = screenshots("meta")
    for scale_min in (0.08, 0.2):
        spec = pipeline(ViewsConfig(size=224, scale_min=scale_min))
        window = draw(spec, here.heights, here.widths, np.arange(256), 0, 0, 0).window
        assert len(reference.like_sizes(window[:, 2] - window[:, 0], window[:, 3] - window[:, 1], 224)) == 1


@pytest.mark.parametrize("name", ["v1", "v2", "v2_no_blur", "crop_flip"])
def test_without_a_gpu_too_nothing_waits_for_the_device(name: str) -> None:
    """On `meta` there is no value to wait for: reading one raises, as does a tensor left on the processor."""
    there, spec, images = screenshots("meta", count=16, short=90), pipeline(ViewsConfig(pipeline=name)), np.arange(16)
    for parameters in (
        draw(spec, there.heights, there.widths, images, 1, 0, 0),
        centre(spec.size, there.heights, there.widths),
    ):
        views = cuda.apply(there, images, parameters, spec)
        assert (views.device.type, views.dtype, views.shape) == ("meta", torch.float32, (16, 3, 224, 224))
    with pytest.raises((RuntimeError, NotImplementedError)):
        reference.apply(there, images, parameters, spec)[0, 0, 0, 0].item()


def test_images_begin_at_whole_pixels() -> None:
    with pytest.raises(AssertionError, match="whole RGB pixels"):
        Ragged(
            torch.zeros(24, dtype=torch.uint8),
            np.array([0, 13]),
            np.array([2, 1], np.int32),
            np.array([2, 1], np.int32),
        )


def test_without_a_compiler_the_colours_are_the_same_and_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("moco.views.cuda.why_not_compiled", lambda device: "torch.compile fails here (no g++)")
    cuda.colours_on.cache_clear()
    for _ in range(2):
        assert cuda.colours_on(torch.device("cpu")) is cuda.colour_and_flip
    cuda.colours_on.cache_clear()
    assert capsys.readouterr().err.count("no g++") == 1


def test_a_trainings_batches_alone_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was seen before: a resumed run has seen other batches first, and must round as the first one did."""
    asked: list[tuple[int, bool]] = []

    def apply(source: Ragged, images: Any, parameters: Any, spec: Pipeline, compiled: bool = False) -> torch.Tensor:
        asked.append((len(images), compiled))
        return torch.zeros(len(images), 3, spec.size, spec.size)

    monkeypatch.setattr(make.cuda, "apply", apply)
    monkeypatch.setattr(Ragged, "device", property(lambda self: torch.device("cuda")))
    spec, here = pipeline(ViewsConfig(size=48)), source("cpu")
    make.random_view(here, np.arange(6), spec, 0, 0, 0)
    make.TrainingViews(here, Crops(spec), 0)(Batch(np.arange(8), 0, 0))
    make.random_view(here, np.arange(8), spec, 0, 0, 0)
    assert asked == [(6, False), (8, True), (8, True), (8, False)]
