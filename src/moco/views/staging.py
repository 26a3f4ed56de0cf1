"""Pixels that don't fit on the GPU: each batch's images travel, read one batch ahead by a thread.

From pinned memory the copy doesn't stop the host, and while the GPU works on one batch the thread reads the next,
from memory or from disk: the mapped file makes no difference between the two.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from moco.views.ragged import Ragged


class Staging:
    """Batches of `host` images on `device`.

    `ahead(images)` begins to read a batch; `take(images)` gives it, having waited only if it was not read ahead.
    """

    def __init__(self, host: Ragged, device: torch.device) -> None:
        self.host = host
        self.device = device
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="moco-read")
        self._coming: dict[bytes, Future[Ragged]] = {}
        self._taken: tuple[bytes, Ragged] | None = None

    def __len__(self) -> int:
        return len(self.host)

    @property
    def heights(self) -> NDArray[np.int32]:
        return self.host.heights

    @property
    def widths(self) -> NDArray[np.int32]:
        return self.host.widths

    def ahead(self, images: NDArray[np.int64]) -> None:
        """Begin to read `images` (N,)."""
        self._coming[images.tobytes()] = self._reader.submit(self._gather, images)

    def take(self, images: NDArray[np.int64]) -> Ragged:
        """`images` (N,) as N images numbered 0 to N - 1, on the device; the second view finds them there."""
        key, taken = images.tobytes(), self._taken
        if taken is None or taken[0] != key:
            coming = self._coming.pop(key, None)  # the one after it may be on its way already
            batch = self._gather(images) if coming is None else coming.result()
            pixels = batch.pixels.to(self.device, non_blocking=True)
            taken = self._taken = key, Ragged(pixels, batch.offsets, batch.heights, batch.widths)
        return taken[1]  # not what another thread has taken since

    def _gather(self, images: NDArray[np.int64]) -> Ragged:
        heights, widths = self.host.heights[images], self.host.widths[images]
        sizes = heights.astype(np.int64) * widths * 3
        offsets = np.cumsum(sizes) - sizes
        pixels = torch.empty(int(sizes.sum()), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        target, source = pixels.numpy(), self.host.pixels.numpy()
        for begin, size, place in zip(self.host.offsets[images], sizes, offsets):
            target[place : place + size] = source[begin : begin + size]
        return Ragged(pixels, offsets, heights, widths)
