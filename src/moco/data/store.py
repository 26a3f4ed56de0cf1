"""One split of a packed store: where each of its images lies, and its fingerprint. No torch until it is asked for."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from moco.data import compressed
from moco.data.parallel import in_order
from moco.errors import Damaged

if TYPE_CHECKING:
    import torch

_CHUNK_BYTES = 2**24


class Kept(Protocol):
    """Bytes of many images: one mapped array, or several that are given out as one."""

    def __getitem__(self, where: slice) -> NDArray[np.uint8]:
        """Those of one image, uint8 (n,)."""

    def __len__(self) -> int:
        """How many in all."""


@dataclass(frozen=True)
class Store:
    """One split, scaled and turned; decoded already, or kept as JPEGs that are decoded when they are read.

    Attributes:
        pixels: uint8 (bytes,), memory-mapped read-only; other splits' images lie between this one's. Rows, or JPEGs.
        offsets: int64 (N,), into `pixels`.
        lengths: int64 (N,), bytes there.
        heights, widths: int32 (N,), in pixels.
        labels: int64 (N,), -1 where there is none.
        names: paths inside the source, N of them.
        classes: class names, empty without labels.
        fingerprint: hex digest of this split's pixels (or JPEGs) and labels, wherever its images lie.
        jpeg: whether the images are kept as JPEGs.
    """

    pixels: Kept
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    heights: NDArray[np.int32]
    widths: NDArray[np.int32]
    labels: NDArray[np.int64]
    names: list[str]
    classes: list[str]
    fingerprint: str
    jpeg: bool = False

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def labelled(self) -> bool:
        """Whether every image has a label."""
        return bool(self.classes)

    @property
    def nbytes(self) -> int:
        """Bytes of this split's pixels: less than `pixels` has where there are other splits."""
        return int((self.heights.astype(np.int64) * self.widths * 3).sum())

    @property
    def stored_bytes(self) -> int:
        """Bytes that this split's images take as they are kept."""
        return int(self.lengths.sum())

    def image(self, index: int) -> NDArray[np.uint8]:
        """One image, uint8 RGB (H, W, 3): a view of the mapped pixels, or what its JPEG is decoded to.

        Raises `Damaged` for a JPEG that isn't what was written.
        """
        shape = int(self.heights[index]), int(self.widths[index]), 3
        start, length = int(self.offsets[index]), int(self.lengths[index])
        kept = self.pixels[start : start + length]
        if not self.jpeg:
            return kept.reshape(shape)
        pixels = np.empty(shape, np.uint8)
        try:
            compressed.decode_into(kept, pixels)
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise Damaged(
                f"the packed image {self.names[index]!r}", f"{reason}: remove its store, `moco cache`"
            ) from error
        return pixels

    def read(self, index: int, target: NDArray[np.uint8]) -> None:
        """Fill `target`, uint8 (H * W * 3,), with the pixels of one image."""
        target[:] = self.image(index).reshape(-1)

    def tensor(self) -> torch.Tensor:
        """`pixels` as a tensor of the same memory, which the kernel lets nobody write: only ever read it."""
        import torch

        assert isinstance(self.pixels, np.ndarray) and not self.jpeg, "there are no decoded pixels"

        with warnings.catch_warnings():
            # torch warns that writing into it is undefined; the pages are read-only, so a write ends the process
            # before it changes anything. A writable mapping would be charged against memory, however large it is.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(self.pixels)

    def on(self, device: torch.device) -> tuple[torch.Tensor, NDArray[np.int64]]:
        """A copy of this split's images alone on `device`: uint8 (nbytes,), and where each begins, int64 (N,)."""
        import torch

        copy, begin = torch.empty(self.nbytes, dtype=torch.uint8, device=device), 0
        offsets = dense_offsets(self.heights.astype(np.int64) * self.widths * 3)
        if self.jpeg:
            with contextlib.closing(in_order(self.image, range(len(self)))) as decoded:
                for begin, image in zip(offsets.tolist(), decoded):
                    copy[begin : begin + image.size].copy_(torch.from_numpy(image.reshape(-1)))
            return copy, offsets
        tensor = self.tensor()
        for first, last in runs(self.offsets, self.lengths):
            copy[begin : begin + last - first].copy_(tensor[first:last])
            begin += last - first
        return copy, offsets


def runs(offsets: NDArray[np.int64], lengths: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """The stretches of bytes, (first, the one after the last), that hold the images in their order."""
    ends = offsets + lengths
    breaks = np.flatnonzero(offsets[1:] != ends[:-1]) + 1
    firsts = [0, *breaks.tolist()] if len(offsets) else []
    lasts = [*breaks.tolist(), len(offsets)] if len(offsets) else []
    for first, last in zip(firsts, lasts, strict=True):
        yield int(offsets[first]), int(ends[last - 1])


def dense_offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each image begins when they lie one after the other, int64 (N,)."""
    return np.cumsum(lengths) - lengths


def digest_of(*tables: NDArray[np.generic]) -> str:
    """SHA-256 of the tables' values, hex."""
    digest = hashlib.sha256()
    for table in tables:
        digest.update(table.tobytes())
    return digest.hexdigest()


def fingerprint_of(
    pixels: Kept,
    offsets: NDArray[np.int64],
    lengths: NDArray[np.int64],
    sizes: NDArray[np.int32],
    labels: NDArray[np.int64],
) -> str:
    """SHA-256 of the images' bytes, then of offsets, sizes and labels as in a store of these images alone."""
    digest = hashlib.sha256()
    if isinstance(pixels, np.ndarray):
        for first, last in runs(offsets, lengths):
            for begin in range(first, last, _CHUNK_BYTES):
                digest.update(pixels[begin : min(begin + _CHUNK_BYTES, last)].data)
    else:  # chunks: what is asked for may not lie in two of them
        for begin, length in zip(offsets.tolist(), lengths.tolist()):
            digest.update(pixels[begin : begin + length].data)
    for table in (dense_offsets(lengths), sizes, labels):
        digest.update(np.ascontiguousarray(table).tobytes())
    return digest.hexdigest()
