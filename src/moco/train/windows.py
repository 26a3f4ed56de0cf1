"""Views of batches whose images lie in a packed store that isn't all at hand: what comes next is fetched meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np

from moco.data.chunks import Chunks
from moco.data.remote import RemoteChunks
from moco.data.sampler import Batch, Sampler, Windows
from moco.data.store import Store
from moco.errors import UserError
from moco.train.training import MakeViews, Views


class InWindows:
    """Makes views as `views` does, and says by `want` which chunks are needed: this window's, and the next one's."""

    def __init__(self, views: MakeViews, sampler: Sampler, want: Callable[[Iterable[int]], None], epochs: int) -> None:
        """The training ends after `epochs`."""
        self._views, self._sampler, self._want, self._epochs = views, sampler, want, epochs
        self._epoch = -1
        self._wanted: list[list[int]] = []  # of each window of that epoch
        self._ends: list[int] = []  # images up to the end of each

    def __call__(self, batch: Batch) -> Views:
        """The views of `batch`. Raises `UserError` where a chunk can't be fetched or kept."""
        self._want(self.chunks(batch))
        return self._views(batch)

    def ahead(self, batch: Batch) -> None:
        """`batch` comes next; its chunks have been on their way since its window's predecessor began."""
        if not self._wanted:  # the training's very first
            self._want(self.chunks(batch))
        self._views.ahead(batch)

    def chunks(self, batch: Batch) -> list[int]:
        """Those of the window that `batch` begins in, and then of the following one, be it the next epoch's first."""
        if batch.epoch != self._epoch:
            self._plan(batch.epoch)
        first = (batch.step - batch.epoch * self._sampler.steps_per_epoch) * self._sampler.batch_size
        return self._wanted[int(np.searchsorted(self._ends, first, "right"))]

    def _plan(self, epoch: int) -> None:
        sampler, windows = self._sampler, self._sampler.windows
        assert windows is not None
        order = [part.tolist() for part in windows.chunks(sampler.seed, epoch)]
        order.append(windows.chunks(sampler.seed, epoch + 1)[0].tolist() if epoch + 1 < self._epochs else [])
        self._wanted = [now + later for now, later in pairwise(order)]
        self._ends = np.cumsum(np.bincount(windows.of_images(sampler.seed, epoch))).tolist()
        self._epoch = epoch


def windows_of(store: Store, size: int | None) -> Windows | None:
    """How an epoch goes through `store`. Raises `UserError` where it can't go so, or only in smaller windows."""
    if isinstance(store.pixels, RemoteChunks):
        store.pixels.check_window(size)
    if size is None:
        return None
    if not isinstance(store.pixels, Chunks | RemoteChunks):
        raise UserError("store.window is for packed stores of chunk files: pack the images first (moco pack)")
    return Windows(np.searchsorted(store.pixels.begins, store.offsets, "right") - 1, size)


def in_windows(views: MakeViews, sampler: Sampler, store: Store, epochs: int) -> MakeViews:
    """`views`, which have what they need fetched in time where the store lies elsewhere and isn't kept whole."""
    if sampler.windows is None or not isinstance(store.pixels, RemoteChunks) or store.pixels.whole:
        return views
    return InWindows(views, sampler, store.pixels.want, epochs)
