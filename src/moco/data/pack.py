"""Decode once, in parallel: a split's images into a packed store (`store.py` says what it looks like)."""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from moco.console import progress_bar, say
from moco.data.folder import Item
from moco.data.images import BadImage, decode
from moco.data.store import FORMAT
from moco.errors import UserError
from moco.files import sync_folder, write_json

Pixels = NDArray[np.uint8]
MIN_BAD = 10  # a handful of bad files never stops a small folder


@dataclass
class Writer:
    """Appends images to the files of one store; `finish` makes it whole."""

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

    def finish(self, classes: list[str], skipped: dict[str, str]) -> None:
        """Write the tables and the manifest, and sync everything."""
        self._file.seek(0)
        _write_header(self._file, self.bytes)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        tables = {
            "offsets": np.asarray(self.offsets, np.int64),
            "sizes": np.asarray(self.sizes, np.int32).reshape(-1, 2),
            "labels": np.asarray(self.labels, np.int64),
        }
        for name, table in tables.items():
            np.save(self.folder / f"{name}.npy", table)
            self._digest.update(table.tobytes())
        manifest = {
            "format": FORMAT,
            "bytes": self.bytes,
            "fingerprint": self._digest.hexdigest(),
            "classes": classes,
            "skipped": skipped,
            "names": self.names,
        }
        write_json(self.folder / "manifest.json", manifest)
        sync_folder(self.folder)

    def abandon(self) -> None:
        """Close the file of a store that won't be finished."""
        self._file.close()


def _write_header(file: IO[bytes], count: int) -> None:
    """numpy's own header for uint8 (count,); it leaves room, so rewriting it in place keeps its length."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count,)})


def pack_items(
    folder: Path, items: list[Item], labels: list[int], classes: list[str], short_side: int, max_bad: float, what: str
) -> None:
    """Decode `items` on all cores into a store at `folder`.

    Bad images are skipped, counted and named once. Raises `UserError` with the list when more than the
    share `max_bad` is bad, or nothing is left.
    """
    writer = Writer(folder)
    skipped: dict[str, str] = {}
    limit = max(int(max_bad * len(items)), min(MIN_BAD, len(items) - 1))
    started = time.perf_counter()
    try:
        with progress_bar("images/s") as bar:
            task = bar.add_task(f"packing {what}", total=len(items), rate="")
            for done, (item, label, pixels) in enumerate(zip(items, labels, _decoded(items, short_side)), 1):
                if isinstance(pixels, str):
                    skipped[item.name] = pixels
                    if len(skipped) > limit:
                        raise UserError(_too_many(skipped, done))
                else:
                    writer.add(item.name, pixels, label)
                if done % 50 == 0 or done == len(items):
                    bar.update(task, completed=done, rate=f"{done / (time.perf_counter() - started):,.0f}")
        writer.finish(classes, skipped)
    finally:
        writer.abandon()
    seconds = time.perf_counter() - started
    say(f"packed {len(writer.names)} {what} images in {seconds:.1f} s ({len(items) / seconds:,.0f} images/s)")
    if skipped:
        say(f"skipped {len(skipped)} bad images: {_listed(skipped)}")


def pack_arrays(folder: Path, images: Iterable[tuple[str, Pixels, int]], classes: list[str]) -> None:
    """Store images that are arrays already, (name, uint8 (H, W, 3), label) each."""
    writer = Writer(folder)
    try:
        for name, pixels, label in images:
            writer.add(name, pixels, label)
        writer.finish(classes, {})
    finally:
        writer.abandon()


def _decoded(items: list[Item], short_side: int) -> Iterator[Pixels | str]:
    """Each item's pixels, or why there are none, in order; decoded by all cores a bounded way ahead."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        yield from _in_order(pool, items, lambda item: _load(item, short_side), ahead=16 * cores)


def _load(item: Item, short_side: int) -> Pixels | str:
    try:
        return decode(item.read(), short_side)
    except BadImage as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)


def _in_order(
    pool: ThreadPoolExecutor, items: list[Item], work: Callable[[Item], Pixels | str], ahead: int
) -> Iterator[Pixels | str]:
    waiting: deque[Future[Pixels | str]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _too_many(skipped: dict[str, str], seen: int) -> str:
    return f"{len(skipped)} of the first {seen} images are bad, too many (--store.max_bad): {_listed(skipped)}"


def _listed(skipped: dict[str, str], most: int = 10) -> str:
    shown = [f"{ascii(name)[1:-1]} ({reason})" for name, reason in list(skipped.items())[:most]]
    more = f", and {len(skipped) - most} more" if len(skipped) > most else ""
    return ", ".join(shown) + more
