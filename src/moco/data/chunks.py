"""A packed store at a place of one's own choosing: JPEGs in chunk files, and everything a run needs beside them.

    STORE/.moco-packed.json  who made it: nothing in a folder without it is ever removed
    STORE/moco-packed.json   the manifest, written last: without it the store isn't finished
                             format    number of this layout, `FORMAT`
                             encoding  what the JPEGs are, `compressed.ENCODING`
                             options   short_side, labels, holdout, range: what it was packed with
                             chunks    bytes of each chunk file
                             digests   SHA-256 of each
                             tables    SHA-256 of the values of offsets, lengths, sizes and labels
                             splits    images of each split, the training split first; and their fingerprints
                             classes, names, skipped, ranges, note, no_val
    STORE/.moco-checked.json how the chunks looked when they were last found to be whole (`intact.py`)
    STORE/chunk-000000.bin   JPEGs, one after the other: about `CHUNK_BYTES` of one split, in shuffled order
    STORE/offsets.npy        int64 (M,)  where each image begins in the chunks laid end to end
    STORE/lengths.npy        int64 (M,)  bytes of its JPEG
    STORE/sizes.npy          int32 (M, 2)  height, width
    STORE/labels.npy         int64 (M,)  its class, -1 where there is none

Images have the numbers that they have in a cache packed from the same files, the training split's first, and the same
fingerprint: a run on either gives the same bits. Within the chunks they are shuffled once, so that a few chunks hold a
fair sample of a split.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.config import StoreConfig
from moco.data import intact
from moco.data.compressed import ENCODING
from moco.data.pixels import mapped, resource_reason
from moco.data.store import Kept, Store, digest_of, fingerprint_of
from moco.errors import Damaged, UserError
from moco.files import remove_written, sync_folder, write_json

FORMAT = 1
CHUNK_BYTES = 2**26
MARKER = ".moco-packed.json"
MANIFEST = "moco-packed.json"
LOCK = ".lock"
CHECKED = ".moco-checked.json"
TABLES = ("offsets", "lengths", "sizes", "labels")
_WRITTEN = re.compile(
    r"chunk-\d{6}\.bin|(offsets|lengths|sizes|labels)\.npy|\.moco-checked\.json"
    r"|\.\.?moco-(packed|checked)\.json\.\d+\.tmp"
)


class Chunks:
    """Chunk files as one array of bytes, mapped read-only; `chunks[a:b]` is a view, within one of them.

    Attributes:
        begins: int64 (chunks + 1,), where each begins, and the end.
    """

    def __init__(self, files: list[Path]) -> None:
        """`files` in their order, none of them empty. Raises `OSError` where one can't be mapped."""
        self.files = files
        self._arrays = [np.memmap(path, np.uint8, "r") for path in files]
        self.begins = np.cumsum([0, *(len(array) for array in self._arrays)])

    def __len__(self) -> int:
        """Bytes in all."""
        return int(self.begins[-1])

    def __getitem__(self, where: slice) -> NDArray[np.uint8]:
        chunk = int(np.searchsorted(self.begins, where.start, "right")) - 1
        begin = int(self.begins[chunk])
        return self._arrays[chunk][where.start - begin : where.stop - begin]


class ChunkWriter:
    """Appends JPEGs to chunk files in `folder`. Close it after either end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.chunks: list[int] = []
        self.digests: list[str] = []
        self._file: Any = None
        self._digest = hashlib.sha256()

    def add(self, jpeg: bytes) -> int:
        """Append one image: where it begins in the chunks laid end to end."""
        if self._file is not None and self.chunks[-1] + len(jpeg) > CHUNK_BYTES:
            self.cut()
        if self._file is None:
            self._file = (self.folder / chunk_name(len(self.chunks))).open("wb")
            self.chunks.append(0)
        begin = sum(self.chunks)
        self._file.write(jpeg)
        self._digest.update(jpeg)
        self.chunks[-1] += len(jpeg)
        return begin

    def cut(self) -> None:
        """The next image begins a new chunk; what was written is on the disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self.close()
            self.digests.append(self._digest.hexdigest())
            self._digest = hashlib.sha256()

    def close(self) -> None:
        """Close the file that is being written."""
        if self._file is not None:
            self._file.close()
            self._file = None


@dataclass(frozen=True)
class Contents:
    """What goes into a store, image by image; rows of the tables belong to images in their own order.

    Attributes:
        offsets, lengths: int64 (M,).
        sizes: int32 (M, 2).
        labels: int64 (M,).
        names: M of them.
        splits: images of each split, the training split first.
        about: the manifest's other entries.
    """

    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    sizes: NDArray[np.int32]
    labels: NDArray[np.int64]
    names: list[str]
    splits: dict[str, int]
    about: dict[str, Any]

    @property
    def tables(self) -> dict[str, NDArray[Any]]:
        """The tables by name, in the order of `TABLES`."""
        return {name: getattr(self, name) for name in TABLES}

    def finish(self, folder: Path, chunks: list[int], digests: list[str]) -> dict[str, str]:
        """Write the tables, then the manifest: the store is whole. Returns the splits' fingerprints."""
        for name, table in self.tables.items():
            with (folder / f"{name}.npy").open("wb") as file:
                np.save(file, table)
                file.flush()
                os.fsync(file.fileno())
        sync_folder(folder)
        bytes_ = Chunks([folder / chunk_name(n) for n in range(len(chunks))])
        found = {
            split: fingerprint_of(bytes_, self.offsets[rows], self.lengths[rows], self.sizes[rows], self.labels[rows])
            for split, rows in rows_of(self.splits).items()
        }
        manifest = {
            "format": FORMAT,
            "encoding": ENCODING,
            "chunks": chunks,
            "digests": digests,
            "tables": digest_of(*self.tables.values()),
            "splits": self.splits,
            "fingerprints": found,
            **self.about,
            "names": self.names,
        }
        write_json(folder / MANIFEST, manifest)
        return found


@dataclass(frozen=True)
class Opened:
    """A packed store, mapped: its splits by name, and the manifest."""

    splits: dict[str, Store]
    manifest: dict[str, Any]


def open_chunks(folder: Path) -> Opened:
    """Map the store in `folder`. Chunks that were touched since they were last read whole are read.

    Raises `Damaged` unless it is what was written, and `UserError` where it isn't finished or can't be read.
    """
    if not (folder / MANIFEST).is_file():
        raise UserError(f"the packed store {folder} isn't finished: run the `moco pack` that began it again")
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        chunks = Chunks([folder / chunk_name(n) for n in range(len(manifest["chunks"]))])
        if [path.stat().st_size for path in chunks.files] != manifest["chunks"]:
            raise ValueError("its parts don't belong together")
        intact.check(dict(zip(chunks.files, manifest["digests"], strict=True)), folder / CHECKED)
    except (FileNotFoundError, ValueError, EOFError, TypeError, LookupError) as error:
        raise _damaged(folder, error) from error
    except (OSError, MemoryError) as error:
        raise UserError(f"the packed store {folder} can't be read: {resource_reason(error)}") from error
    return open_tables(folder, manifest, chunks)


def open_tables(folder: Path, manifest: dict[str, Any], chunks: Kept) -> Opened:
    """The splits that `manifest` and the tables in `folder` make of `chunks`. Raises as `open_chunks`."""
    try:
        if (manifest["format"], manifest["encoding"]) != (FORMAT, ENCODING):
            raise UserError(f"the packed store {folder} was made by another version of moco: pack it again")
        offsets, lengths, sizes, labels = (np.array(mapped(folder / f"{name}.npy")) for name in TABLES)
        if manifest["tables"] != digest_of(offsets, lengths, sizes, labels):
            raise ValueError("its parts don't belong together")
        splits = {}
        for name, rows in rows_of(manifest["splits"]).items():
            splits[name] = Store(
                chunks, offsets[rows], lengths[rows], sizes[rows, 0].copy(), sizes[rows, 1].copy(), labels[rows],
                manifest["names"][rows], manifest["classes"], manifest["fingerprints"][name], jpeg=True,
            )  # fmt: skip
    except (FileNotFoundError, ValueError, EOFError, TypeError, LookupError) as error:
        raise _damaged(folder, error) from error
    except (OSError, MemoryError) as error:
        raise UserError(f"the packed store {folder} can't be read: {resource_reason(error)}") from error
    return Opened(splits, manifest)


def _damaged(folder: Path, error: Exception) -> Damaged:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return Damaged(f"the packed store {folder}", reason)


def options_of(config: StoreConfig, short_side: int) -> dict[str, object]:
    """What of the options a packed store is made with, and can't be had otherwise."""
    return {
        "store.short_side": short_side,
        "store.labels": config.labels,
        "store.holdout": config.holdout,
        "store.range": config.range,
    }


def is_packed(folder: Path) -> bool:
    """Whether `moco pack` made, or began, what is in `folder`."""
    try:
        mark = json.loads((folder / MARKER).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(mark, dict) and mark.get("program") == "moco"


def begin(folder: Path) -> None:
    """Make `folder` ready for a store: new, empty, or holding one that wasn't finished, of which the files are removed.

    Raises `UserError` for any other folder, and where it can't be made.
    """
    check_free(folder)
    try:
        write_json(folder / MARKER, {"program": "moco"})
        clear(folder)
    except OSError as error:
        raise UserError(f"can't pack into {folder}: {error.strerror or error}") from error


def check_free(folder: Path) -> None:
    """Raise `UserError` unless a store may be made in `folder`; touches nothing."""
    try:
        inside = [path for path in folder.iterdir() if path.name != LOCK] if folder.exists() else []
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror or error}") from error
    if inside and not is_packed(folder):
        raise UserError(f"--out {folder} holds other files, give a new or empty folder")
    if (folder / MANIFEST).exists():
        raise UserError(f"--out {folder} holds a packed store already, give a new or empty folder")


def clear(folder: Path) -> None:
    """Remove the chunks and tables of a store of ours that wasn't finished; the marker stays."""
    remove_written(folder, _WRITTEN)


def chunk_name(number: int) -> str:
    return f"chunk-{number:06d}.bin"


def rows_of(splits: dict[str, int]) -> dict[str, slice]:
    """Which images are in each split: they lie one after the other."""
    rows, first = {}, 0
    for name, count in splits.items():
        rows[name] = slice(first, first + count)
        first += count
    return rows
