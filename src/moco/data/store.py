"""The packed store: decoded pixels of one split in plain numpy files, memory-mapped.

    pixels.npy   uint8 (bytes,)   every image's rows, RGB, one image after the other
    offsets.npy  int64 (N,)       where each begins
    sizes.npy    int32 (N, 2)     height, width
    labels.npy   int64 (N,)       class number, -1 where unknown
    manifest.json                 format   number of this layout, `FORMAT`
                                  bytes    length of pixels.npy's array
                                  tables   SHA-256 of the three tables' values, in the order above
                                  fingerprint  SHA-256 of the pixels, then the three tables' values
                                  classes  class names; empty without labels
                                  names    path of each image inside the source
                                  skipped  [path, reason] of each file that was no readable image
                                  ranges   of each kind of numbers above 8 bits, what became black and white
                                  unended  path of each JPEG that lacked its end marker

Any program that reads numpy's format reads it: `pixels[o : o + h * w * 3].reshape(h, w, 3)`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.errors import UserError

FORMAT = 2
TABLES = ("offsets", "sizes", "labels")


@dataclass(frozen=True)
class Store:
    """One split, decoded.

    Attributes:
        pixels: uint8 (bytes,), memory-mapped; pages are shared between processes.
        offsets: int64 (N,).
        heights, widths: int32 (N,), in pixels.
        labels: int64 (N,), -1 where there is none.
        names: paths inside the source, N of them.
        classes: class names, empty without labels.
        fingerprint: hex digest of the pixels and labels.
    """

    pixels: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    heights: NDArray[np.int32]
    widths: NDArray[np.int32]
    labels: NDArray[np.int64]
    names: list[str]
    classes: list[str]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def labelled(self) -> bool:
        """Whether every image has a label."""
        return bool(self.classes)

    def image(self, index: int) -> NDArray[np.uint8]:
        """One image, uint8 RGB (H, W, 3), a view of the mapped pixels."""
        start, height, width = int(self.offsets[index]), int(self.heights[index]), int(self.widths[index])
        return self.pixels[start : start + height * width * 3].reshape(height, width, 3)

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Map the store in `folder`.

        Raises `UserError` if it is damaged: not the files, lengths or tables that were written. The pixels
        themselves are not read.
        """
        try:
            manifest = json.loads((folder / "manifest.json").read_bytes())
            # "c": torch wants writable memory; nothing writes, so the pages stay shared.
            pixels = np.lib.format.open_memmap(folder / "pixels.npy", mode="c")
            offsets, sizes, labels = (_read(folder / f"{name}.npy") for name in TABLES)
            intact = (
                manifest["format"] == FORMAT
                and (pixels.dtype, pixels.shape) == (np.uint8, (manifest["bytes"],))
                and manifest["tables"] == digest_of(offsets, sizes, labels)
                and len(manifest["names"]) == len(offsets)
            )
            if not intact:
                raise ValueError("its parts don't belong together")
            return cls(
                pixels=pixels,
                offsets=offsets,
                heights=sizes[:, 0].copy(),
                widths=sizes[:, 1].copy(),
                labels=labels,
                names=manifest["names"],
                classes=manifest["classes"],
                fingerprint=manifest["fingerprint"],
            )
        except (OSError, ValueError, EOFError, TypeError, LookupError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise UserError(f"packed store {folder} is damaged ({reason})") from error


def digest_of(*tables: NDArray[np.generic]) -> str:
    """SHA-256 of the tables' values, hex."""
    digest = hashlib.sha256()
    for table in tables:
        digest.update(table.tobytes())
    return digest.hexdigest()


def _read(path: Path) -> NDArray[Any]:
    with path.open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


@dataclass(frozen=True)
class Dataset:
    """What a run trains and is measured on.

    Attributes:
        train: the training split.
        val: the validation split, None without labels.
        note: one line on how it was read.
    """

    train: Store
    val: Store | None
    note: str

    @property
    def classes(self) -> list[str]:
        """Class names, empty without labels."""
        return self.train.classes

    @property
    def fingerprints(self) -> dict[str, str]:
        """Digest of each split's pixels and labels."""
        found = {"train": self.train.fingerprint}
        return found if self.val is None else {**found, "val": self.val.fingerprint}
