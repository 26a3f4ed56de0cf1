"""Packed pixels: every decoded image of one place in plain numpy files, memory-mapped, and the splits made of them.

    STORE/.moco-store.json    who made it; nothing without it is ever removed
    STORE/images/pixels.npy   uint8 (bytes,)   every image's rows, RGB, one image after the other
    STORE/images/offsets.npy  int64 (M,)       where each begins
    STORE/images/sizes.npy    int32 (M, 2)     height, width; 0, 0 for a file that was left out
    STORE/images/contents.npy uint8 (M, 16)    digest of each file's bytes; zeros for one that couldn't be read
    STORE/images/manifest.json                 format   number of this layout, `FORMAT`
                                               bytes    length of pixels.npy's array
                                               tables   SHA-256 of the three tables' values, in the order above
                                               names    path of each file inside the source, M of them
                                               skipped  [path, reason] of each file that was left out
                                               unread   numbers of those that couldn't be read: tried again
                                               ranges   of each kind of numbers above 8 bits, what became black and
                                                        white
                                               unended  path of each JPEG that lacked its end marker

    A store of JPEGs (`compressed.py`) has, instead of pixels.npy,
    STORE/images/jpegs.npy    uint8 (bytes,)   each image as a JPEG, one after the other
    STORE/images/lengths.npy  int64 (M,)       how many bytes each takes, 0 for a file that was left out; the fourth
                                               of the tables
    and in the manifest       encoding         what the JPEGs are, `compressed.ENCODING`

    STORE/splits/KEY.npy      int64 (N, 2)     a split: number of the image, number of its class (-1: unknown)
    STORE/splits/KEY.json                      classes  class names; empty without labels
                                               fingerprint  SHA-256 of the split's pixels (or JPEGs), then of the
                                                            values that offsets, sizes and labels have in a
                                                            store of this split alone

Any program that reads numpy's format reads it: `pixels[o : o + h * w * 3].reshape(h, w, 3)`. Labels and splits are
tables beside one set of pixels, so another `holdout` costs no decoding.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from moco.data import compressed
from moco.data.parallel import in_order
from moco.errors import Damaged, UserError
from moco.files import atomic, read_json, write_json

if TYPE_CHECKING:
    import torch

FORMAT = 3
TABLES = ("offsets", "sizes", "contents")
JPEG_TABLES = (*TABLES, "lengths")
_CHUNK_BYTES = 2**24
_GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)  # all other `OSError`s say nothing of the files


class Kept(Protocol):
    """Bytes of many images: one mapped array, or several that are given out as one."""

    def __getitem__(self, where: slice) -> NDArray[np.uint8]:
        """Those of one image, uint8 (n,)."""

    def __len__(self) -> int:
        """How many in all."""


@dataclass(frozen=True)
class Pixels:
    """Every image of one place, decoded, and what was left out.

    Attributes:
        folder: where they are, `STORE/images`.
        pixels: uint8 (bytes,), memory-mapped read-only; pages are shared between processes. Rows, or JPEGs.
        offsets: int64 (M,), where each image begins in `pixels`.
        lengths: int64 (M,), how many bytes it takes there.
        sizes: int32 (M, 2), height and width in pixels, 0 for a file that was left out.
        contents: uint8 (M, 16), digests of the files' bytes.
        names: paths inside the source, M of them.
        skipped: (path, reason) of each file that was left out.
        unread: numbers of those of them that couldn't be read.
        ranges: of each kind of more than 8 bits, by its name, what became black and white (`levels.Range`).
        jpeg: whether the images are kept as JPEGs.
    """

    folder: Path
    pixels: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    sizes: NDArray[np.int32]
    contents: NDArray[np.uint8]
    names: list[str]
    skipped: list[tuple[str, str]]
    unread: list[int]
    ranges: dict[str, dict[str, Any]] = field(default_factory=dict)
    jpeg: bool = False

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def there(self) -> NDArray[np.bool_]:
        """bool (M,): which files are images."""
        return self.sizes[:, 0] > 0

    @classmethod
    def open(cls, folder: Path) -> Pixels:
        """Map what lies in `folder`; the pixels themselves are not read.

        Raises `Damaged` unless these are the files, lengths and tables that were written, and `UserError`
        where they can't be read: for want of memory, permission or a sound disk.
        """
        try:
            manifest = json.loads((folder / "manifest.json").read_bytes())
            jpeg = "encoding" in manifest
            pixels = mapped(folder / ("jpegs.npy" if jpeg else "pixels.npy"))
            tables = [np.array(mapped(folder / f"{name}.npy")) for name in (JPEG_TABLES if jpeg else TABLES)]
            offsets, sizes, contents = tables[:3]
            intact = (
                manifest["format"] == FORMAT
                and manifest.get("encoding", compressed.ENCODING) == compressed.ENCODING
                and (pixels.dtype, pixels.shape) == (np.uint8, (manifest["bytes"],))
                and manifest["tables"] == digest_of(*tables)
                and len(manifest["names"]) == len(offsets)
            )
            if not intact:
                raise ValueError("its parts don't belong together")
            skipped = [(name, reason) for name, reason in manifest["skipped"]]
            names, unread, ranges = manifest["names"], manifest["unread"], manifest["ranges"]
            lengths = tables[3] if jpeg else sizes.astype(np.int64).prod(1) * 3
            return cls(folder, pixels, offsets, lengths, sizes, contents, names, skipped, unread, ranges, jpeg)
        except (*_GONE, ValueError, EOFError, TypeError, LookupError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise Damaged(f"packed store {folder}", reason) from error
        except (OSError, MemoryError) as error:
            raise UserError(f"packed store {folder} can't be read: {resource_reason(error)}") from error

    def split(self, images: NDArray[np.int64], labels: NDArray[np.int64], classes: list[str]) -> Store:
        """The split of `images` (N,), numbers of files of which none was left out, with `labels` (N,).

        Its fingerprint is looked up beside the pixels, or computed and, where that can be written, kept there.
        """
        key = digest_of(images, labels) + "\0".join(classes)
        key = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:20]
        sizes, lengths = self.sizes[images], self.lengths[images]
        table = self.folder.parent / "splits" / f"{key}.json"
        fingerprint = _kept_fingerprint(table)
        store = Store(
            pixels=self.pixels,
            offsets=self.offsets[images],
            lengths=lengths,
            heights=sizes[:, 0].copy(),
            widths=sizes[:, 1].copy(),
            labels=labels,
            names=[self.names[i] for i in images.tolist()],
            classes=classes,
            fingerprint=fingerprint or fingerprint_of(self.pixels, self.offsets[images], lengths, sizes, labels),
            jpeg=self.jpeg,
        )
        if fingerprint is None:
            _keep(table, np.stack([images, labels], 1), store)
        return store


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


def resource_reason(error: OSError | MemoryError) -> str:
    """A machine's shortage in words, with what to do where that is known."""
    if isinstance(error, MemoryError) or error.errno == errno.ENOMEM:
        return "not enough memory (the files are fine; end other programs, or raise the job's limit)"
    advice = {
        errno.EACCES: " (the files may be fine; --store.cache DIR elsewhere?)",
        errno.EPERM: " (the files may be fine; --store.cache DIR elsewhere?)",
        errno.EMFILE: " (raise `ulimit -n`)",
        errno.ENFILE: " (too many files are open on this machine)",
    }
    return f"{error.strerror or error}{advice.get(error.errno or 0, '')}"


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


def _kept_fingerprint(table: Path) -> str | None:
    """The fingerprint that was kept at `table`; None where there is none, or it is damaged."""
    try:
        kept = read_json(table, "split")
    except UserError:  # not there yet, or not readable: it is computed, which gives the same
        return None
    found = kept.get("fingerprint") if isinstance(kept, dict) and kept.get("format") == FORMAT else None
    return found if isinstance(found, str) and len(found) == 64 else None


def _keep(table: Path, rows: NDArray[np.int64], store: Store) -> None:
    try:
        with atomic(table.with_suffix(".npy")) as file:
            np.save(file, rows)
        write_json(table, {"format": FORMAT, "classes": store.classes, "fingerprint": store.fingerprint})
    except UserError:  # a cache that may only be read: the next start computes it again
        return


def mapped(path: Path) -> NDArray[Any]:
    """The array in `path`, mapped read-only: what is read is charged to nobody, however large the file is."""
    return np.lib.format.open_memmap(path, mode="r")
