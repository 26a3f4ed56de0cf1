"""Images for the views' tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from moco.views.ragged import Ragged

Pixels = NDArray[np.uint8]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """torch's operations on a few small pictures take longer on several threads, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def ragged() -> Callable[[Sequence[Pixels]], Ragged]:
    """Images uint8 (H, W, 3), end to end."""

    def build(images: Sequence[Pixels]) -> Ragged:
        sizes = np.array([image.shape[:2] for image in images], np.int32)
        ends = np.cumsum([image.size for image in images])
        pixels = torch.from_numpy(np.concatenate([image.ravel() for image in images]))
        return Ragged(pixels, np.concatenate([[0], ends[:-1]]), sizes[:, 0].copy(), sizes[:, 1].copy())

    return build


@pytest.fixture(scope="session")
def pictures() -> Callable[[int, Sequence[tuple[int, int]]], list[Pixels]]:
    """Pictures of given sizes: noise, flat colours (two channels alike, or grey), ramps, in turn."""

    def build(seed: int, sizes: Sequence[tuple[int, int]]) -> list[Pixels]:
        rng = np.random.default_rng(seed)
        return [_picture(rng, i % 4, height, width) for i, (height, width) in enumerate(sizes)]

    return build


def _picture(rng: np.random.Generator, kind: int, height: int, width: int) -> Pixels:
    if kind == 0:
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == 1:  # blocks of colours with ties between the channels
        colours = rng.choice([0, 64, 128, 255], (4, 4, 3)).astype(np.uint8)
        return colours.repeat(-(-height // 4), 0).repeat(-(-width // 4), 1)[:height, :width].copy()
    if kind == 2:  # greys
        return rng.integers(0, 256, (height, width, 1), dtype=np.uint8).repeat(3, 2)
    ramp = np.linspace(0, 255, height)[:, None, None] + np.linspace(0, 255, width)[None, :, None] * rng.random(3)
    return (ramp % 256).astype(np.uint8)
