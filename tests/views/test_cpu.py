"""The compiled kernel gives the reference's pixels, and the same bits however the work is divided."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moco.config import ViewsConfig
from moco.threads import Threads
from moco.views import cpu, make, reference
from moco.views.parameters import Parameters, centre, draw
from moco.views.pipelines import Pipeline, pipeline
from moco.views.ragged import Ragged

# Largest difference of a pixel in [0, 1]. Both compute in float32 (rounding 6e-8) but sum taps in another order,
# and a jitter multiplies what has gathered by up to 1.4 three times. Hue needs no allowance: a colour's hue jumps
# at grey, but what is computed from it, value - chroma * trapezoid(hue), doesn't, for there the chroma is 0; and
# where two channels tie, the formulas of both sectors agree.
TOLERANCE = 4e-6

# Tiny, thin, smaller than the view, larger, long.
SIZES = [(1, 1), (1, 40), (40, 1), (2, 3), (7, 5), (13, 64), (64, 64), (75, 100), (143, 190), (90, 31), (33, 200)]


def plain(name: str, size: int) -> Pipeline:
    """A pipeline that ends before the normalisation, so that differences are in pixels."""
    return replace(pipeline(ViewsConfig(pipeline=name, size=size)), mean=(0, 0, 0), std=(1, 1, 1))


@pytest.fixture(scope="module")
def source(ragged: Callable[..., Ragged], pictures: Callable[..., Any]) -> Ragged:
    if not cpu.available():
        pytest.skip("numba can't compile here")
    return ragged(pictures(0, [size for size in SIZES for _ in range(8)]))


def drawn(source: Ragged, p: Pipeline, epoch: int = 0) -> tuple[np.ndarray, Parameters]:
    images = np.arange(len(source))
    return images, draw(p, source.heights, source.widths, images, 0, epoch, 0)


@pytest.mark.parametrize("name", ["v1", "v2", "v2_no_blur", "crop_flip"])
@pytest.mark.parametrize(("size", "epochs"), [(1, 1), (7, 6), (33, 5), (64, 2), (96, 1)])
def test_equals_reference(source: Ragged, name: str, size: int, epochs: int) -> None:
    """Over 5,000 views in all."""
    p = plain(name, size)
    for epoch in range(epochs):
        images, parameters = drawn(source, p, epoch)
        expected = reference.apply(source, images, parameters, p)
        assert (cpu.apply(source, images, parameters, p) - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("sigma", [(0.1, 2.0), (0.02, 0.3), (4.0, 9.0)])
@pytest.mark.parametrize("size", [1, 4, 12, 50])
def test_blurs_of_any_width_equal_reference(source: Ragged, sigma: tuple[float, float], size: int) -> None:
    p = replace(plain("v2", size), blur_sigma=sigma, blur_p=0.9)
    images, parameters = drawn(source, p)
    expected = reference.apply(source, images, parameters, p)
    assert (cpu.apply(source, images, parameters, p) - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", ["v1", "v2", "crop_flip"])
def test_solarised_views_equal_reference(source: Ragged, name: str) -> None:
    """Where a pixel is within the tolerance of a half, either side of it gives nearly a half."""
    p = replace(plain(name, 33), solarise_p=0.5)
    images, parameters = drawn(source, p)
    assert 0 < parameters.solarise.sum() < len(parameters)
    found, expected = cpu.apply(source, images, parameters, p), reference.apply(source, images, parameters, p)
    assert (found - expected).abs().max() < TOLERANCE
    assert found[torch.from_numpy(parameters.solarise)].max() <= 0.5 + TOLERANCE
    left = ~parameters.solarise
    without = cpu.apply(source, images[left], parameters.rows(left), replace(p, solarise_p=0.0))
    assert torch.equal(found[torch.from_numpy(left)], without)


@pytest.mark.parametrize("size", [1, 32, 64, 100])
def test_evaluation_view_equals_reference(source: Ragged, size: int) -> None:
    square_enough = np.flatnonzero(np.minimum(source.heights, source.widths) > 4)
    parameters = centre(size, source.heights[square_enough], source.widths[square_enough])
    p = plain("crop_flip", size)
    expected = reference.apply(source, square_enough, parameters, p)
    assert (cpu.apply(source, square_enough, parameters, p) - expected).abs().max() < TOLERANCE


def test_normalisation_equals_reference(source: Ragged) -> None:
    p = pipeline(ViewsConfig(pipeline="v2", size=32))
    images, parameters = drawn(source, p)
    expected = reference.apply(source, images, parameters, p)
    assert (cpu.apply(source, images, parameters, p) - expected).abs().max() < TOLERANCE / min(p.std)


@pytest.mark.parametrize("name", ["v1", "v2"])
@pytest.mark.parametrize("compiled", [True, False])
def test_same_bits_for_any_number_of_threads(
    source: Ragged, name: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "available", lambda: compiled)
    p = pipeline(ViewsConfig(pipeline=name, size=48))
    images, parameters = drawn(source, p)
    results = [make.apply(source, images, parameters, p, Threads(threads)) for threads in (1, 2, 3)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert results[2].is_contiguous(memory_format=torch.channels_last) or not compiled
    if compiled:
        assert torch.equal(results[0], cpu.apply(source, images, parameters, p))


@pytest.mark.parametrize("applier", [cpu, reference])
def test_a_view_does_not_depend_on_its_batch(source: Ragged, applier: Any) -> None:
    """To the bit for the kernel; torch's products add up in an order that depends on the padding."""
    p = plain("v2", 40)
    images, parameters = drawn(source, p)
    together = applier.apply(source, images, parameters, p)
    for i in range(0, len(source), 9):
        alone = applier.apply(source, images[i : i + 1], parameters.rows(slice(i, i + 1)), p)
        if applier is cpu:
            assert torch.equal(alone[0], together[i])
        else:
            assert (alone[0] - together[i]).abs().max() < TOLERANCE


def test_any_order_and_repetition(source: Ragged) -> None:
    p = plain("v2", 24)
    images, parameters = drawn(source, p)
    rows = np.random.default_rng(1).integers(0, len(source), 300)
    assert torch.equal(
        cpu.apply(source, images[rows], parameters.rows(rows), p), cpu.apply(source, images, parameters, p)[rows]
    )


def test_concurrent_calls(source: Ragged) -> None:
    p = plain("v2", 24)
    images, parameters = drawn(source, p)
    expected = cpu.apply(source, images, parameters, p)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(cpu.apply, source, images, parameters, p) for _ in range(12)]
        assert all(torch.equal(call.result(), expected) for call in calls)


def test_layout_and_leaves_its_input_alone(source: Ragged) -> None:
    p = plain("v2", 24)
    images, parameters = drawn(source, p)
    pixels, copies = source.pixels.clone(), [getattr(parameters, f.name).copy() for f in fields(parameters)]
    views = cpu.apply(source, images, parameters, p)
    assert views.shape == (len(source), 3, 24, 24)
    assert views.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(source.pixels, pixels)
    assert all(np.array_equal(getattr(parameters, f.name), copy) for f, copy in zip(fields(parameters), copies))


def test_no_images(source: Ragged) -> None:
    p = plain("v2", 24)
    images, parameters = drawn(source, p)
    assert cpu.apply(source, images[:0], parameters.rows(slice(0, 0)), p).shape == (0, 3, 24, 24)


def test_falls_back_and_says_so_once(source: Ragged, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(cpu, "say", lines.append)
    monkeypatch.setattr(cpu, "_load", _no_numba)
    cpu._kernel_or_none.cache_clear()
    try:
        p = plain("v2", 16)
        images, parameters = drawn(source, p)
        for _ in range(2):
            views = make.apply(source, images, parameters, p)
        assert (views - reference.apply(source, images, parameters, p)).abs().max() < TOLERANCE / min(p.std)
        assert lines == ["views: slower torch operations instead of the compiled kernel, numba can't be used (gone)"]
    finally:
        cpu._kernel_or_none.cache_clear()


def _no_numba() -> None:
    raise ImportError("gone")


def test_compiles_each_time_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = pytest.importorskip("moco.views.kernel")
    lines: list[str] = []

    def njit(signature: str, **options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(kernel, "njit", njit)
    monkeypatch.setattr(kernel, "say", lines.append)
    assert kernel.load() is kernel.views
    assert len(lines) == 1
    assert "NUMBA_CACHE_DIR" in lines[0]


DIGEST = """
import hashlib, numpy as np, torch
from moco.views import cpu
from moco.views.parameters import draw
from moco.views.pipelines import Pipeline
from moco.views.ragged import Ragged

side, images = np.full(24, 20, np.int32), np.arange(24)
pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, 24 * 1200, np.uint8))
source, seen = Ragged(pixels, images * 1200, side, side), hashlib.sha256()
for size in range(4, 20):
    p = Pipeline(size, scale=(0.05, 1))
    seen.update(cpu.apply(source, images, draw(p, side, side, images, 7, 0, 0), p).contiguous().numpy().tobytes())
print(seen.hexdigest())
"""


def test_what_compiles_the_kernel_makes_the_bits_of_what_loads_it(tmp_path: Path) -> None:
    """Two processes of one run were one that had compiled it and one that found it compiled."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    runs = [
        subprocess.run([sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert ["compiled the view kernel" in run.stderr for run in runs] == [True, False]
    assert runs[0].stdout == runs[1].stdout
