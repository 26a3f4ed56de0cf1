"""Pixels that don't lie on the device: each batch's images travel, read one batch ahead by threads.

From pinned memory the copy doesn't stop the host, and while the device works on one batch the threads read the next:
from memory or from disk (the mapped file makes no difference between the two), or by decoding JPEGs.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from moco.views.ragged import Ragged
from moco.views.source import Images

PIECE = 8  # images that a thread reads at a time


class Staging:
    """Batches of the images of `host` on `device`, read by `readers` threads.

    `ahead(images)` begins to read a batch; `take(images)` gives it, having waited only if it was not read ahead.
    One reader suits a copy: what wasn't read ahead is then copied by whoever takes it. Decoding wants a thread a core.
    """

    def __init__(self, host: Images, device: torch.device, readers: int = 1) -> None:
        self.host = host
        self.device = device
        self._readers = readers
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="moco-read")
        self._coming: dict[bytes, _Batch] = {}
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
        self._coming[images.tobytes()] = self._begin(images)

    def take(self, images: NDArray[np.int64]) -> Ragged:
        """`images` (N,) as N images numbered 0 to N - 1, on the device; the second view finds them there.

        Raises what reading one of them raised.
        """
        key, taken = images.tobytes(), self._taken
        if taken is None or taken[0] != key:
            coming = self._coming.pop(key, None)  # the one after it may be on its way already
            batch = (self._begin(images, wait=True) if coming is None else coming).whole()
            pixels = batch.pixels.to(self.device, non_blocking=True)
            taken = self._taken = key, Ragged(pixels, batch.offsets, batch.heights, batch.widths)
        return taken[1]  # not what another thread has taken since

    def _begin(self, images: NDArray[np.int64], wait: bool = False) -> _Batch:
        """Begin to read `images`; where the caller will `wait` and there is but one reader, it reads itself."""
        heights, widths = self.host.heights[images], self.host.widths[images]
        sizes = heights.astype(np.int64) * widths * 3
        offsets = np.cumsum(sizes) - sizes
        pixels = torch.empty(int(sizes.sum()), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        target, numbers, ends = pixels.numpy(), images.tolist(), offsets + sizes

        def read(first: int) -> None:
            for place in range(first, min(first + PIECE, len(numbers))):
                self.host.read(numbers[place], target[offsets[place] : ends[place]])

        firsts = range(0, len(numbers), PIECE)
        batch = Ragged(pixels, offsets, heights, widths)
        if wait and self._readers == 1:
            for first in firsts:
                read(first)
            return _Batch(batch, [])
        return _Batch(batch, [self._pool.submit(read, first) for first in firsts])


@dataclass(frozen=True)
class _Batch:
    """Images that are being read, in pieces."""

    images: Ragged
    pieces: list[Future[None]]

    def whole(self) -> Ragged:
        """The images once all of them are there."""
        for piece in self.pieces:
            piece.result()
        return self.images
