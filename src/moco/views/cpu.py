"""The second half of a view on the processor: arrays for the compiled kernel, which does the pixels."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco.console import say
from moco.views.parameters import Parameters, centre
from moco.views.pipelines import Pipeline
from moco.views.ragged import Ragged
from moco.views.reference import blur_kernels

NEGLIGIBLE = 2.0**-25  # a weight of the blur that changes no bit of a float32 sum near 1
_one_at_a_time = threading.Lock()  # a call uses all threads anyway, and one of numba's thread pools isn't re-entrant


def apply(source: Ragged, images: NDArray[np.int64], parameters: Parameters, pipeline: Pipeline) -> Tensor:
    """What `reference.apply` gives, several times faster; only where `available()`.

    Returns float32 (N, 3, size, size) in channels_last memory, which is what the convolutions want. Row i is a
    function of row i of `images` and `parameters` alone, to the bit, with any number of threads.
    """
    kernel = _kernel()
    assert kernel is not None
    return _run(kernel, source, images, parameters, pipeline)


def available() -> bool:
    """Whether the kernel can be compiled here; the first call does it, or loads what an earlier process kept."""
    return _kernel() is not None


def _run(
    kernel: Callable[..., None], source: Ragged, images: NDArray[np.int64], parameters: Parameters, pipeline: Pipeline
) -> Tensor:
    n, size = len(parameters), pipeline.size
    out = torch.empty((n, size, size, 3), dtype=torch.float32)
    window = parameters.window.astype(np.int64)
    stride = 3 * source.widths[images].astype(np.int64)
    begin = source.offsets[images] + window[:, 0] * stride + 3 * window[:, 1]
    place = np.column_stack([begin, stride, window[:, 2:] - window[:, :2]])
    box = parameters.box - np.pad(window[:, :2], ((0, 0), (0, 2)))
    first, last = (parameters.grey & (pipeline.grey_first is when) for when in (True, False))
    switches = np.column_stack([first, parameters.jitter, last, parameters.flip])
    mean, std = np.array(pipeline.mean), np.array(pipeline.std)
    scaling = np.stack([1 / std, -mean / std]).astype(np.float32)
    taps = int(2 * max(box[:, 2:].max(initial=0) / size, 1)) + 2
    pixels, order = source.pixels.numpy(), parameters.order
    with _one_at_a_time:
        parts = min(_use_threads(), n)
        kernel(
            pixels, place, box, parameters.factors, order, switches, *_blur(parameters, size), scaling, taps, parts,
            out.numpy(),
        )  # fmt: skip
    return out.permute(0, 3, 1, 2)


def _blur(parameters: Parameters, size: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Weights from the centre outwards, float32 (N, 1 + R), R a multiple of 3; and how many count, 0 for no blur."""
    rows = np.flatnonzero(parameters.sigma > 0)
    kernels, _ = blur_kernels(parameters.sigma[rows], size)
    reach = kernels.shape[1] // 2
    weights = np.zeros((len(parameters), 1 + -(-reach // 3) * 3), np.float32)
    weights[rows, : 1 + reach] = kernels[:, reach:]
    return weights, (weights[:, 1:] > NEGLIGIBLE).sum(1)


def _use_threads() -> int:
    """As many of numba's threads as torch uses; returns how many that is."""
    import numba

    config: Any = numba.config
    threads = min(torch.get_num_threads(), config.NUMBA_NUM_THREADS)
    numba.set_num_threads(threads)
    return threads


@cache
def _kernel() -> Callable[..., None] | None:
    """The compiled kernel, tried on one pixel; None, and a line that says why, where numba can't."""
    threads = torch.get_num_threads()
    try:
        kernel = _load()
    except ImportError as error:
        say(f"views: slower torch operations instead of the compiled kernel, numba can't be used ({error})")
        return None
    torch.set_num_threads(threads)  # numba's thread pool may be torch's own, and sets its size as it starts
    return kernel


def _load() -> Callable[..., None]:
    import numba
    from numba.core.errors import NumbaError

    config: Any = numba.config
    if config.DISABLE_JIT:
        raise ImportError("NUMBA_DISABLE_JIT is set")
    config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]  # omp shares its threads with torch
    from moco.views.kernel import views

    started = time.perf_counter()
    pixel = Ragged(torch.zeros(3, dtype=torch.uint8), np.zeros(1, np.int64), *2 * [np.ones(1, np.int32)])
    try:
        _run(views, pixel, np.zeros(1, np.int64), centre(1, pixel.heights, pixel.widths), Pipeline(1))
    except NumbaError as error:
        raise ImportError(str(error).splitlines()[0]) from error
    if not views.stats.cache_hits:
        say(f"compiled the view kernel for this processor in {time.perf_counter() - started:.0f} s")
    return views
