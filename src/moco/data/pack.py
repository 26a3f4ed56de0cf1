"""Decode once, in parallel: all images of a place into a packed store (`pixels.py` says what it looks like)."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from moco.console import progress, say
from moco.data import intact
from moco.data.compressed import ENCODING, encode, smallest
from moco.data.depth import Kind
from moco.data.images import BadImage, Picture, read_picture
from moco.data.item import DIGEST_BYTES, Item, content_digest
from moco.data.levels import Range
from moco.data.parallel import in_order
from moco.data.pixels import CHECKED, FORMAT, JPEG_TABLES, TABLES, resource_reason
from moco.data.ranges import Ranges
from moco.data.remarks import without_remarks
from moco.data.store import digest_of
from moco.errors import UserError, printable
from moco.files import sync_folder, write_json

MIN_BAD = 10  # a handful of bad files never stops a small folder, unless none is allowed at all
NAMED = 10  # bad files named in one line
_SHORTAGES = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True)
class Loaded:
    """What became of one file.

    Attributes:
        picture: what was decoded, None if it is left out.
        digest: of its bytes, `DIGEST_BYTES` long; zeros if they couldn't be read.
        reason: why it is left out.
        unread: whether that may pass: the file couldn't be read, so nothing is known of the picture.
        jpeg: what a store of JPEGs keeps of it.
    """

    picture: Picture | None
    digest: bytes = bytes(DIGEST_BYTES)
    reason: str = ""
    unread: bool = False
    jpeg: bytes = b""


@dataclass
class Read:
    """How images were read, where that isn't plain.

    Attributes:
        counts: images of more than 8 bits, by their kind.
        ranges: what became black and white in each kind.
        unended: names of JPEGs without an end marker.
    """

    counts: Counter[Kind] = field(default_factory=Counter)
    ranges: dict[Kind, Range] = field(default_factory=dict)
    unended: list[str] = field(default_factory=list)

    def add(self, name: str, picture: Picture, ranges: Ranges) -> None:
        """Count one image."""
        if picture.deep is not None:
            self.counts[picture.deep] += 1
            self.ranges[picture.deep] = ranges(picture.deep)
        if not picture.ended:
            self.unended.append(name)

    def as_dict(self) -> dict[str, Any]:
        """As the manifest holds it."""
        kinds = sorted(self.counts, key=str)
        used = {str(kind): {"images": self.counts[kind], **self.ranges[kind].as_dict()} for kind in kinds}
        return {"ranges": used, "unended": self.unended}

    def lines(self) -> list[str]:
        """What a person should know, a sentence each."""
        said = [
            f"more than 8 bits: {self.counts[kind]} {kind} image{'s' * (self.counts[kind] != 1)}, {self.ranges[kind]}"
            for kind in sorted(self.counts, key=str)
        ]
        if self.unended:
            count, names = len(self.unended), [printable(name) for name in self.unended]
            said.append(f"{count} JPEG{'s' * (count != 1)} without an end marker, pixels whole: {_shortened(names)}")
        return said


@dataclass
class Writer:
    """Appends files to the tables of one store; `finish` makes it whole, `close` after either end."""

    folder: Path
    jpeg: bool = False
    names: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    unread: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    length: int = 0  # bytes of pixels, or JPEGs

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self._path = self.folder / ("jpegs.npy" if self.jpeg else "pixels.npy")
        self._file = self._path.open("wb")
        _write_header(self._file, 0)
        self._digest = hashlib.sha256()

    def add(self, name: str, loaded: Loaded) -> None:
        """Append one file, left out or not."""
        if loaded.picture is not None:
            pixels = loaded.picture.pixels
            self._append(name, pixels.shape[:2], loaded.jpeg if self.jpeg else pixels.tobytes(), loaded.digest)
            return
        if loaded.unread:
            self.unread.append(len(self.names))
        self.skipped.append((name, loaded.reason))
        self._append(name, (0, 0), b"", loaded.digest)

    def add_pixels(self, name: str, pixels: NDArray[np.uint8], digest: bytes = bytes(DIGEST_BYTES)) -> None:
        """Append one image, uint8 (H, W, 3)."""
        self._append(name, pixels.shape[:2], encode(pixels) if self.jpeg else pixels.tobytes(), digest)

    def _append(self, name: str, size: tuple[int, ...], kept: bytes, digest: bytes) -> None:
        self._file.write(kept)
        self._digest.update(kept)
        self.names.append(name)
        self.sizes.append((size[0], size[1]))
        self.digests.append(digest)
        self.offsets.append(self.length)
        self.lengths.append(len(kept))
        self.length += len(kept)

    def finish(self, read: Read | None = None) -> None:
        """Write the tables and the manifest, and sync everything."""
        self._file.seek(0)
        _write_header(self._file, self.length)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        tables: tuple[NDArray[Any], ...] = (
            np.asarray(self.offsets, np.int64),
            np.asarray(self.sizes, np.int32).reshape(-1, 2),
            np.frombuffer(b"".join(self.digests), np.uint8).reshape(-1, DIGEST_BYTES),
        )
        if self.jpeg:
            tables = (*tables, np.asarray(self.lengths, np.int64))
        for name, table in zip(JPEG_TABLES if self.jpeg else TABLES, tables, strict=True):
            with (self.folder / f"{name}.npy").open("wb") as file:
                np.save(file, table)
                file.flush()
                os.fsync(file.fileno())
        manifest = {
            "format": FORMAT,
            **({"encoding": ENCODING} if self.jpeg else {}),
            "bytes": self.length,
            "digest": self._digest.hexdigest(),
            "tables": digest_of(*tables),
            "unread": self.unread,
            "skipped": self.skipped,
            **(read or Read()).as_dict(),
            "names": self.names,
        }
        write_json(self.folder / "manifest.json", manifest)
        intact.note(self.folder / CHECKED, {self._path.name: intact.state_of(self._path)})
        sync_folder(self.folder)

    def close(self) -> None:
        """Close the file, of a store that won't be finished too."""
        self._file.close()


def _write_header(file: IO[bytes], count: int) -> None:
    """numpy's own header for uint8 (count,); it leaves room, so rewriting it in place keeps its length."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count,)})


def pack_items(
    folder: Path,
    items: list[Item],
    short_side: int,
    max_bad: float,
    ranges: Ranges | None = None,
    quiet: bool = False,
    jpeg: bool = False,
) -> None:
    """Decode `items` on all cores into a store at `folder`, with a progress bar and a line unless `quiet`.

    The store keeps pixels, or, with `jpeg`, JPEGs of them.
    `ranges` says what becomes black and white in images of more than 8 bits; without it `items` decide.
    Bad images are skipped, counted and named once. Raises `UserError` with the list when more than the share
    `max_bad` is bad, or nothing is left, and where the machine runs out of memory or open files; `OSError` where
    the disk is full.
    """
    ranges = ranges or Ranges("auto", [items])
    read = Read()
    started = time.perf_counter()
    shown = contextlib.nullcontext() if quiet else progress("packing", len(items), "images/s")
    with (
        contextlib.closing(Writer(folder, jpeg)) as writer,
        contextlib.closing(in_order(partial(load, short_side=short_side, ranges=ranges, jpeg=jpeg), items)) as decoded,
        without_remarks(),
        shown as bar,
    ):
        for done, (item, loaded) in enumerate(zip(items, decoded), 1):
            writer.add(item.name, loaded)
            if loaded.picture is None:
                check_skipped(writer.skipped, len(items), max_bad, done)
            else:
                read.add(item.name, loaded.picture, ranges)
            if bar is not None and (done % 50 == 0 or done == len(items)):
                bar.update(done)
        writer.finish(read)
    seconds = time.perf_counter() - started
    if quiet:
        return
    packed = len(items) - len(writer.skipped)
    say(f"packed {packed} images in {seconds:.1f} s ({len(items) / seconds:,.0f} images/s)")
    for line in read.lines():
        say(line)
    if writer.skipped:
        say(f"skipped {len(writer.skipped)} bad images: {listed(writer.skipped)}")
    if writer.unread:
        say(f"{len(writer.unread)} of them couldn't be read, whatever they are: tried again at the next start")


def pack_arrays(folder: Path, images: Iterable[tuple[str, NDArray[np.uint8]]], jpeg: bool = False) -> None:
    """Store images that are arrays already, (name, uint8 (H, W, 3)) each; with `jpeg`, as JPEGs."""
    with contextlib.closing(Writer(folder, jpeg)) as writer:
        for name, pixels in images:
            writer.add_pixels(name, pixels)
        writer.finish()


def load(item: Item, short_side: int, ranges: Callable[[Kind], Range], jpeg: bool = False) -> Loaded:
    """The item's picture, or why there is none; with `jpeg`, what a store of JPEGs keeps of it too.

    Raises `UserError` where the machine has no memory or no open file left: that says nothing of the picture.
    """
    try:
        content = item.read()
    except BadImage as error:
        return Loaded(None, content_digest(f"{item.size} bytes".encode()), str(error))
    except (OSError, MemoryError) as error:
        if isinstance(error, MemoryError) or error.errno in _SHORTAGES:
            raise UserError(f"{printable(item.name)} can't be read: {resource_reason(error)}") from error
        return Loaded(None, reason=error.strerror or str(error), unread=True)
    try:
        picture = read_picture(content, short_side, ranges)
    except BadImage as error:
        return Loaded(None, content_digest(content), str(error))
    except MemoryError as error:
        raise UserError(f"{printable(item.name)} can't be decoded: {resource_reason(error)}") from error
    try:
        kept = smallest(picture.pixels, content) if jpeg else b""
    except ValueError as error:  # too long for the format
        return Loaded(None, content_digest(content), str(error))
    return Loaded(picture, content_digest(content), jpeg=kept)


def check_skipped(skipped: list[tuple[str, str]], count: int, max_bad: float, seen: int) -> None:
    """Raise `UserError` if more than `max_bad` of `count` files are left out, `seen` of them looked at so far."""
    if len(skipped) > _most_bad(count, max_bad):
        of = f"the first {seen}" if seen < count else str(count)
        bad = f"{len(skipped)} of {of} images are bad"
        raise UserError(f"{bad}, too many (--store.max_bad): {listed(skipped)}")


def listed(skipped: list[tuple[str, str]]) -> str:
    """The first few of the files left out, with the reason of each."""
    return _shortened([f"{printable(name)} ({printable(reason)})" for name, reason in skipped[:NAMED]], len(skipped))


def _most_bad(count: int, share: float) -> int:
    """How many of `count` images may be bad: the share of them, or a handful of a small folder; never all."""
    return min(max(int(share * count), MIN_BAD if share > 0 else 0), count - 1)


def _shortened(shown: list[str], count: int | None = None) -> str:
    """The first few of `count` things, and how many more there are."""
    count = len(shown) if count is None else count
    more = f", and {count - NAMED} more" if count > NAMED else ""
    return ", ".join(shown[:NAMED]) + more
