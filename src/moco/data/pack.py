"""Decode once, in parallel: a split's images into a packed store (`store.py` says what it looks like)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from moco.console import progress_bar, say
from moco.data.depth import Kind
from moco.data.images import BadImage, Picture, read_picture
from moco.data.item import Item, printable
from moco.data.levels import Range
from moco.data.parallel import in_order
from moco.data.ranges import Ranges
from moco.data.remarks import without_remarks
from moco.data.store import FORMAT, TABLES, digest_of
from moco.errors import UserError
from moco.files import sync_folder, write_json

Pixels = NDArray[np.uint8]
MIN_BAD = 10  # a handful of bad files never stops a small folder, unless none is allowed at all
NAMED = 10  # bad files named in one line


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
    """Appends images to the files of one store; `finish` makes it whole, `close` after either end."""

    folder: Path
    names: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    bytes: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self._digest = hashlib.sha256()
        self._file = (self.folder / "pixels.npy").open("wb")
        _write_header(self._file, 0)

    def add(self, name: str, pixels: Pixels, label: int) -> None:
        """Append one uint8 image (H, W, 3)."""
        content = pixels.tobytes()
        self._file.write(content)
        self._digest.update(content)
        self.names.append(name)
        self.labels.append(label)
        self.sizes.append((pixels.shape[0], pixels.shape[1]))
        self.offsets.append(self.bytes)
        self.bytes += len(content)

    def finish(self, classes: list[str], skipped: list[tuple[str, str]], read: Read | None = None) -> None:
        """Write the tables and the manifest, and sync everything. `skipped` has (name, reason) pairs."""
        self._file.seek(0)
        _write_header(self._file, self.bytes)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        tables: tuple[NDArray[Any], ...] = (
            np.asarray(self.offsets, np.int64),
            np.asarray(self.sizes, np.int32).reshape(-1, 2),
            np.asarray(self.labels, np.int64),
        )
        for name, table in zip(TABLES, tables, strict=True):
            with (self.folder / f"{name}.npy").open("wb") as file:
                np.save(file, table)
                file.flush()
                os.fsync(file.fileno())
            self._digest.update(table.tobytes())
        manifest = {
            "format": FORMAT,
            "bytes": self.bytes,
            "tables": digest_of(*tables),
            "fingerprint": self._digest.hexdigest(),
            "classes": classes,
            "skipped": skipped,
            **(read or Read()).as_dict(),
            "names": self.names,
        }
        write_json(self.folder / "manifest.json", manifest)
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
    labels: list[int],
    classes: list[str],
    short_side: int,
    max_bad: float,
    what: str,
    quiet: bool = False,
    ranges: Ranges | None = None,
) -> None:
    """Decode `items` on all cores into a store at `folder`, with a progress bar and a line unless `quiet`.

    `ranges` says what becomes black and white in images of more than 8 bits; without it `items` decide.
    Bad images are skipped, counted and named once. Raises `UserError` with the list when more than the
    share `max_bad` is bad, or nothing is left; `OSError` where the disk is full.
    """
    skipped: list[tuple[str, str]] = []
    ranges = ranges or Ranges("auto", [items])
    read = Read()
    limit = _most_bad(len(items), max_bad)
    started = time.perf_counter()
    bar = progress_bar("images/s")
    bar.disable = quiet
    with (
        contextlib.closing(Writer(folder)) as writer,
        contextlib.closing(in_order(partial(_load, short_side=short_side, ranges=ranges), items)) as decoded,
        without_remarks(),
        bar,
    ):
        task = bar.add_task(f"packing {what}", total=len(items), rate="")
        for done, (item, label, picture) in enumerate(zip(items, labels, decoded), 1):
            if isinstance(picture, str):
                skipped.append((item.name, picture))
                if len(skipped) > limit:
                    raise UserError(_too_many(skipped, done))
            else:
                writer.add(item.name, picture.pixels, label)
                read.add(item.name, picture, ranges)
            if done % 50 == 0 or done == len(items):
                bar.update(task, completed=done, rate=f"{done / (time.perf_counter() - started):,.0f}")
        writer.finish(classes, skipped, read)
    seconds = time.perf_counter() - started
    if quiet:
        return
    say(f"packed {len(writer.names)} {what} images in {seconds:.1f} s ({len(items) / seconds:,.0f} images/s)")
    for line in read.lines():
        say(line)
    if skipped:
        say(f"skipped {len(skipped)} bad images: {_listed(skipped)}")


def pack_arrays(folder: Path, images: Iterable[tuple[str, Pixels, int]], classes: list[str]) -> None:
    """Store images that are arrays already, (name, uint8 (H, W, 3), label) each."""
    with contextlib.closing(Writer(folder)) as writer:
        for name, pixels, label in images:
            writer.add(name, pixels, label)
        writer.finish(classes, [])


def _most_bad(count: int, share: float) -> int:
    """How many of `count` images may be bad: the share of them, or a handful of a small folder; never all."""
    return min(max(int(share * count), MIN_BAD if share > 0 else 0), count - 1)


def _load(item: Item, short_side: int, ranges: Ranges) -> Picture | str:
    """The item's picture, or why there is none."""
    try:
        return read_picture(item.read(), short_side, ranges)
    except BadImage as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)


def _too_many(skipped: list[tuple[str, str]], seen: int) -> str:
    return f"{len(skipped)} of the first {seen} images are bad, too many (--store.max_bad): {_listed(skipped)}"


def _listed(skipped: list[tuple[str, str]]) -> str:
    return _shortened([f"{printable(name)} ({printable(reason)})" for name, reason in skipped[:NAMED]], len(skipped))


def _shortened(shown: list[str], count: int | None = None) -> str:
    """The first few of `count` things, and how many more there are."""
    count = len(shown) if count is None else count
    more = f", and {count - NAMED} more" if count > NAMED else ""
    return ", ".join(shown[:NAMED]) + more
