"""The features of many images, kept so that a million of them don't fill the memory.

What decides between exact and half precision is their number alone, so that it never depends on the machine; where
they are kept is decided by the memory that is free, and changes no bit.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moco.environment import memory_available_bytes
from moco.errors import UserError, in_a_line

EXACT_BYTES = 2**32  # float32 up to here, float16 above
HOST_SHARE = 0.5  # of the free memory that features may take; above it they go to a file
BLOCK_VALUES = 2**25  # values that are brought to the device at once: 128 MiB
GB = 1e9


class Features:
    """Features of V views of N images.

    Up to `EXACT_BYTES` they are float32 on the device. Above, they are float16 in host memory, or in a file without a
    name in `$TMPDIR` (else /var/tmp) where that is short, and blocks of them travel.

    Attributes:
        values: (V, N, F), `scale` times too small.
        scale: a power of two; 1 unless they are float16.
        device: where `rows` and `blocks` come to.
    """

    def __init__(self, values: Tensor, device: torch.device, scale: float = 1.0) -> None:
        self.values, self.device, self.scale = values, device, scale

    @classmethod
    def of(cls, values: Tensor) -> Features:
        """`values` (V, N, F) or, of one view, (N, F), as they are."""
        return cls(values if values.ndim == 3 else values[None], values.device)

    @classmethod
    def empty(cls, views: int, count: int, width: int, device: torch.device) -> Features:
        """Room for (views, count, width), to be filled by `put`. Raises `UserError` if there is none."""
        shape = (views, count, width)
        if 4 * views * count * width <= EXACT_BYTES:
            return cls(torch.empty(shape, device=device), device)
        if 2 * views * count * width <= HOST_SHARE * memory_available_bytes():
            return cls(torch.empty(shape, dtype=torch.float16), device)
        return cls(_in_file(shape), device)

    @property
    def views(self) -> int:
        return self.values.shape[0]

    @property
    def width(self) -> int:
        return self.values.shape[2]

    @property
    def exact(self) -> bool:
        """Whether they are as the backbone gave them, on the device."""
        return self.values.dtype != torch.float16

    def __len__(self) -> int:
        """How many images."""
        return self.values.shape[1]

    def put(self, view: int, first: int, features: Tensor) -> None:
        """Set those of `view` from image `first` on to `features` float32 (n, F).

        Raises `UserError` for features that are not finite, or so uneven that float16 can't hold them.
        """
        if not features.isfinite().all():
            raise UserError("the backbone's features are not finite: its weights or statistics have diverged")
        if not self.exact:
            if (view, first) == (0, 0):
                self.scale = 2.0 ** np.ceil(np.log2(features.abs().max().item() or 1.0))
            features = (features / self.scale).to(torch.float16)
            if not features.isfinite().all():
                raise UserError("the backbone's features differ 65,000-fold between images")
        self.values[view, first : first + len(features)] = features

    def rows(self, numbers: Tensor) -> Tensor:
        """float32 (n, F) on the device; number v * N + i, int64 (n,), is view v of image i."""
        flat = self.values.flatten(0, 1)
        return self._wide(flat[numbers.to(flat.device)])

    def blocks(self, view: int | None = 0, rows: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """(number of the first, float32 (n, F) on the device) for all images of a view, or of all views (None).

        `rows` is the largest n; by default a block has `BLOCK_VALUES` values at most.
        """
        flat = self.values.flatten(0, 1) if view is None else self.values[view]
        first = 0
        for part in flat.split(rows or max(1, BLOCK_VALUES // self.width)):
            yield first, self._wide(part)
            first += len(part)

    def _wide(self, part: Tensor) -> Tensor:
        return part if self.exact else part.to(self.device).float() * self.scale


@dataclass(frozen=True)
class LabelledFeatures:
    """Features with labels int64 (N,) on their device, and the C class names."""

    features: Features
    labels: Tensor
    classes: list[str]

    def __len__(self) -> int:
        return len(self.labels)


def _in_file(shape: tuple[int, int, int]) -> Tensor:
    """float16 of `shape` in a file that has no name and is gone when this process ends, however it ends."""
    folder, size = scratch_folder(), 2 * int(np.prod(shape))
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # no room is known now, not by a signal in an hour
            else:
                file.truncate(size)
            return torch.from_numpy(np.memmap(file, np.float16, "r+", shape=shape))
    except OSError as error:
        raise UserError(
            f"{size / GB:.0f} GB of features don't fit in the memory ({memory_available_bytes() / GB:.0f} GB free) nor "
            f"in {folder} ({in_a_line(error)}): set TMPDIR to a folder with room"
        ) from error


def scratch_folder() -> Path:
    """Where files go that live as long as the process: `$TMPDIR`, else /var/tmp (/tmp is memory on many machines)."""
    given = os.environ.get("TMPDIR")
    return Path(given) if given else next((p for p in (Path("/var/tmp"),) if p.is_dir()), Path(tempfile.gettempdir()))
