"""Images of different sizes as flat memory on a device: what the views read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ragged:
    """N uint8 RGB images, one after the other.

    Attributes:
        pixels: uint8 (bytes,), on the device that the views are made on.
        offsets: int64 (N,), host: where each image begins, in bytes, a multiple of 3.
        heights, widths: int32 (N,), host, in pixels.
    """

    pixels: torch.Tensor
    offsets: NDArray[np.int64]
    heights: NDArray[np.int32]
    widths: NDArray[np.int32]

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def __post_init__(self) -> None:
        assert not (self.offsets % 3).any(), "images are whole RGB pixels, end to end"

    @property
    def rgb(self) -> torch.Tensor:
        """The pixels one a row, uint8 (bytes / 3, 3), no copy."""
        return self.pixels[: len(self.pixels) // 3 * 3].view(-1, 3)

    def take(self, images: NDArray[np.int64]) -> Ragged:
        """`images` (n,) as n images numbered from 0; the pixels are the same memory."""
        return Ragged(self.pixels, self.offsets[images], self.heights[images], self.widths[images])

    def on(self, device: torch.device) -> Ragged:
        """The same images on `device`."""
        return Ragged(self.pixels.to(device), self.offsets, self.heights, self.widths)

    def read(self, index: int, target: NDArray[np.uint8]) -> None:
        """Copy one image to `target`, uint8 (H * W * 3,); the pixels are on the host."""
        begin = int(self.offsets[index])
        target[:] = self.pixels.numpy()[begin : begin + len(target)]

    def ahead(self, images: NDArray[np.int64]) -> None:
        """They are here already."""

    def upload(self, values: NDArray[np.generic]) -> torch.Tensor:
        """`values` on the pixels' device; a GPU is not waited for."""
        tensor = torch.from_numpy(values)
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def __len__(self) -> int:
        return len(self.offsets)
