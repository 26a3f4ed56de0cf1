"""The second half of a view on the processor: arrays for the compiled kernel, which does the pixels."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco.console import say
from moco.views.parameters import Parameters
from moco.views.pipelines import Pipeline
from moco.views.ragged import Ragged
from moco.views.reference import blur_kernels

NEGLIGIBLE = 2.0**-25  # a weight of the blur that changes no bit of a float32 sum near 1
_loading = threading.Lock()


def apply(source: Ragged, images: NDArray[np.int64], parameters: Parameters, pipeline: Pipeline) -> Tensor:
    """What `reference.apply` gives, many times faster; only where `available()`.

    Returns float32 (N, 3, size, size) in channels_last memory, which is what the convolutions want. Row i is a
    function of row i of `images` and `parameters` alone, to the bit. It works on the calling thread, and lets others
    work meanwhile.
    """
    kernel = _kernel()
    assert kernel is not None
    n, size = len(parameters), pipeline.size
    out = torch.empty((n, size, size, 3), dtype=torch.float32)
    if n:
        arrays = [np.ascontiguousarray(array) for array in _arrays(source, images, parameters, pipeline)]
        taps = int(2 * max(parameters.box[:, 2:].max() / size, 1)) + 2
        kernel(source.pixels.numpy(), *arrays, size, taps, out.view(n, -1).numpy())
    return out.permute(0, 3, 1, 2)


def available() -> bool:
    """Whether the kernel can be compiled here; the first call does it, or loads what an earlier process kept."""
    return _kernel() is not None


def _arrays(
    source: Ragged, images: NDArray[np.int64], parameters: Parameters, pipeline: Pipeline
) -> Iterator[NDArray[np.generic]]:
    """From `place` to `scaling`, as `kernel.views` describes them."""
    window = parameters.window.astype(np.int64)
    stride = 3 * source.widths[images].astype(np.int64)
    begin = source.offsets[images] + window[:, 0] * stride + 3 * window[:, 1]
    yield np.column_stack([begin, stride, window[:, 2:] - window[:, :2]])
    yield parameters.box - np.pad(window[:, :2], ((0, 0), (0, 2)))
    yield parameters.factors
    yield parameters.order
    first, last = (parameters.grey & (pipeline.grey_first is when) for when in (True, False))
    yield np.column_stack([first, parameters.jitter, last, parameters.flip, parameters.solarise])
    yield from _blur(parameters, pipeline.size)
    mean, std = np.array(pipeline.mean), np.array(pipeline.std)
    yield np.stack([1 / std, -mean / std]).astype(np.float32)


def _blur(parameters: Parameters, size: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Weights from the centre outwards, float32 (N, 1 + R), R a multiple of 3; and how many count, 0 for no blur."""
    rows = np.flatnonzero(parameters.sigma > 0)
    kernels, _ = blur_kernels(parameters.sigma[rows], size)
    reach = kernels.shape[1] // 2
    weights = np.zeros((len(parameters), 1 + -(-reach // 3) * 3), np.float32)
    weights[rows, : 1 + reach] = kernels[:, reach:]
    return weights, (weights[:, 1:] > NEGLIGIBLE).sum(1)


def _kernel() -> Callable[..., None] | None:
    with _loading:  # by one thread, the others wait for it
        return _kernel_or_none()


@cache
def _kernel_or_none() -> Callable[..., None] | None:
    """The compiled kernel; None, and a line that says why, where numba can't."""
    try:
        return _load()
    except ImportError as error:
        say(f"views: slower torch operations instead of the compiled kernel, numba can't be used ({error})")
        return None


def _load() -> Callable[..., None]:
    import numba
    from numba.core.errors import NumbaError

    config: Any = numba.config
    if config.DISABLE_JIT:
        raise ImportError("NUMBA_DISABLE_JIT is set")
    from moco.views import kernel

    started = time.perf_counter()
    try:
        views = kernel.load()
    except NumbaError as error:
        raise ImportError(" ".join(str(error).split())[:200]) from error
    if not views.stats.cache_hits:
        say(f"compiled the view kernel for this processor in {time.perf_counter() - started:.0f} s")
    return views
