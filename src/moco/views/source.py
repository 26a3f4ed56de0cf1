"""Where a view's pixels come from. A new kind of source is one class with these members."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from moco.views.ragged import Ragged


class Images(Protocol):
    """N images on the host, each of which can be read: memory, a mapped file, JPEGs."""

    @property
    def heights(self) -> NDArray[np.int32]:
        """int32 (N,), in pixels."""

    @property
    def widths(self) -> NDArray[np.int32]:
        """int32 (N,), in pixels."""

    def read(self, index: int, target: NDArray[np.uint8]) -> None:
        """Fill `target`, uint8 (H * W * 3,), with one image's pixels: RGB, row by row. From any thread."""

    def __len__(self) -> int:
        """N."""


class Source(Protocol):
    """N images, wherever their pixels are kept: on the device (`Ragged`), or read batch by batch (`Staging`)."""

    @property
    def heights(self) -> NDArray[np.int32]:
        """int32 (N,), host, in pixels."""

    @property
    def widths(self) -> NDArray[np.int32]:
        """int32 (N,), host, in pixels."""

    @property
    def device(self) -> torch.device:
        """Where `take` brings the pixels."""

    def take(self, images: NDArray[np.int64]) -> Ragged:
        """`images` (n,) as n images numbered from 0, on the device."""

    def ahead(self, images: NDArray[np.int64]) -> None:
        """`images` (n,) come next: reading them may begin."""

    def __len__(self) -> int:
        """N."""
