"""The second half of a view on a GPU: shapes that don't depend on the draws, and no wait for the device.

The readable version picks the rows that an operation applies to; here every operation runs on the whole batch and
`torch.where` keeps what was drawn, so that the colour part is one compiled graph without host syncs. Parameters
travel in one copy from pinned memory. The arithmetic is the readable version's (`reference.py`, `colour.py`), and
runs on any device: the tests compare the two on the processor too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco.console import say
from moco.machine import why_not_compiled
from moco.views.colour import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation, greyscale, solarise
from moco.views.parameters import Parameters
from moco.views.pipelines import Pipeline
from moco.views.ragged import Ragged
from moco.views.reference import blur_kernels, blur_matrix, crop_resize, normalise

_ADJUST = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


def apply(
    source: Ragged, images: NDArray[np.int64], parameters: Parameters, pipeline: Pipeline, compiled: bool = False
) -> Tensor:
    """What `reference.apply` gives, float32 (N, 3, size, size), on the source's device.

    `compiled` is for batches of one size that come again and again, the training's: each size is compiled by itself,
    which for all sizes of the monitors took minutes. It rounds differently, so who asks for it must always.
    """
    views = crop_resize(source, images, parameters, pipeline.size)
    colours = colours_on(source.device) if compiled and source.device.type == "cuda" else colour_and_flip
    if pipeline.jitter_p or pipeline.grey_p or pipeline.flip_p:
        views = colours(views, source.upload(_table(parameters)), pipeline.grey_first)
    if pipeline.blur_p and parameters.sigma.max(initial=0) > 0:
        matrix = blur_matrix(source.upload(_kernels(parameters, pipeline)), pipeline.size)[:, None]
        views = matrix @ views @ matrix.transpose(-1, -2)  # after the flip: a symmetric kernel doesn't mind
    if pipeline.solarise_p:
        chosen = source.upload(parameters.solarise)[:, None, None, None]
        views = torch.where(chosen, solarise(views), views)
    return normalise(views, pipeline)


def colour_and_flip(views: Tensor, table: Tensor, grey_first: bool) -> Tensor:
    """Jitter, greyscale and flip of `views` float32 (N, 3, S, S), by the rows of `table` (`_table`)."""
    factors, order = table[:, :4], table[:, 4:8]
    jitter, grey, flip = (table[:, column, None, None, None] > 0 for column in (8, 9, 10))
    if grey_first:
        views = torch.where(grey, greyscale(views), views)
    for place in range(4):
        before = views
        for operation, adjust in enumerate(_ADJUST):
            chosen = jitter & (order[:, place, None, None, None] == operation)
            views = torch.where(chosen, adjust(before, factors[:, operation]), views)
    if not grey_first:
        views = torch.where(grey, greyscale(views), views)
    return torch.where(flip, views.flip(-1), views)


@cache
def colours_on(device: torch.device) -> Callable[[Tensor, Tensor, bool], Tensor]:
    """`colour_and_flip` as one graph of fused kernels, not some two hundred passes, where it can be compiled."""
    if complaint := why_not_compiled(device):
        say(f"the views' colours are not compiled into one pass, which is slower: {complaint}")
        return colour_and_flip
    return torch.compile(colour_and_flip, dynamic=False)


def _table(parameters: Parameters) -> NDArray[np.float32]:
    """Factors, order, jitter, grey, flip: float32 (N, 11)."""
    switches = np.stack([parameters.jitter, parameters.grey, parameters.flip], axis=1)
    return np.concatenate([parameters.factors, parameters.order, switches], axis=1).astype(np.float32)


def _kernels(parameters: Parameters, pipeline: Pipeline) -> NDArray[np.float32]:
    """The blur's kernels, float32 (N, 2 R + 1) with the pipeline's largest R; the middle tap alone is no blur."""
    widest, _ = blur_kernels(np.array([pipeline.blur_sigma[1]], np.float32), pipeline.size)
    reach = widest.shape[1] // 2
    kernels = np.zeros((len(parameters), 2 * reach + 1), np.float32)
    kernels[:, reach] = 1
    rows = np.flatnonzero(parameters.sigma > 0)
    drawn, _ = blur_kernels(parameters.sigma[rows], pipeline.size)
    inner = drawn.shape[1] // 2
    kernels[rows, reach - inner : reach + inner + 1] = drawn
    return kernels
