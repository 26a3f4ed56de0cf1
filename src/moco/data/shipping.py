"""`moco pack`: the images of a place, decoded and scaled, into a store of chunk files that travels (`chunks.py`)."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from moco.config import StoreConfig
from moco.console import progress
from moco.data.chunks import LOCK, ChunkWriter, Contents, begin, check_free, clear, options_of
from moco.data.folder import scan
from moco.data.layout import Layout, arrange
from moco.data.pack import Loaded, Read, check_skipped, load
from moco.data.parallel import in_order
from moco.data.ranges import Ranges
from moco.data.remarks import without_remarks
from moco.errors import UserError, printable
from moco.files import locked
from moco.randomness import Purpose, permutation


@dataclass(frozen=True)
class Shipped:
    """What `ship` wrote.

    Attributes:
        images: in each split.
        bytes: of the chunks.
        chunks: how many files.
        fingerprints: of each split.
        skipped: (path, reason) of each file that was left out.
        notes: what a person should know of the images, a sentence each.
    """

    images: dict[str, int]
    bytes: int
    chunks: int
    fingerprints: dict[str, str]
    skipped: list[tuple[str, str]]
    notes: list[str]


def ship(path: str, spec: str, folder: Path, config: StoreConfig, short_side: int) -> Shipped:
    """Pack what `path`, which a person called `spec`, holds into `folder`, at `short_side` pixels.

    What a kill left of it is begun anew. Raises `UserError` where `folder` holds anything else, the disk is full (what
    was written is removed), or too many images are bad.
    """
    layout = arrange(scan(path), config.labels, config.holdout, printable(spec))
    check_free(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"can't make {folder}: {error.strerror or error}") from error
    with locked(folder / LOCK, f"another process is packing into {folder}"):
        begin(folder)
        try:
            return _written(layout, folder, config, short_side)
        except BaseException as error:
            clear(folder)
            if isinstance(error, OSError):
                raise UserError(f"can't pack into {folder}: {error.strerror or error}") from error
            raise


def _written(layout: Layout, folder: Path, config: StoreConfig, short_side: int) -> Shipped:
    """Decode the images split by split, in shuffled order, into chunks; then the tables and the manifest."""
    ranges, read = Ranges(config.range, layout.pools), Read()
    count = sum(len(members.items) for members in layout.splits.values())
    rows: dict[str, list[_Row]] = {}
    skipped: list[tuple[str, str]] = []
    one = partial(load, short_side=short_side, ranges=ranges, jpeg=True)
    done = 0
    with (
        contextlib.closing(ChunkWriter(folder)) as writer,
        progress("packing", count, "images/s") as bar,
        without_remarks(),
    ):
        for split, members in layout.splits.items():
            kept = rows[split] = []
            order = permutation(len(members.items), 0, Purpose.PACK_ORDER).tolist()
            with contextlib.closing(in_order(one, [members.items[n] for n in order])) as decoded:
                for number, loaded in zip(order, decoded):
                    done += 1
                    name = members.items[number].name
                    if loaded.picture is None:
                        skipped.append((name, loaded.reason))
                        check_skipped(skipped, count, config.max_bad, done)
                        continue
                    read.add(name, loaded.picture, ranges)
                    kept.append(_row(number, name, members.labels[number], loaded, writer.add(loaded.jpeg)))
                    bar.update(done)
            writer.cut()
            kept.sort(key=lambda row: row.number)
            if not kept:
                raise UserError(f"no readable image is left for {split}: all {len(members.items)} are bad")
    flat = [row for kept in rows.values() for row in kept]
    contents = Contents(
        offsets=np.array([row.offset for row in flat], np.int64),
        lengths=np.array([row.length for row in flat], np.int64),
        sizes=np.array([row.size for row in flat], np.int32),
        labels=np.array([row.label for row in flat], np.int64),
        names=[row.name for row in flat],
        splits={split: len(kept) for split, kept in rows.items()},
        about={
            "options": options_of(config, short_side), "classes": layout.classes, "skipped": sorted(skipped),
            "ranges": read.as_dict()["ranges"], "note": layout.note, "no_val": layout.no_val,
        },
    )  # fmt: skip
    found = contents.finish(folder, writer.chunks, writer.digests)
    return Shipped(contents.splits, sum(writer.chunks), len(writer.chunks), found, sorted(skipped), read.lines())


@dataclass(frozen=True)
class _Row:
    """One image in the store: its number in its split, and what the tables say of it."""

    number: int
    name: str
    label: int
    offset: int
    length: int
    size: tuple[int, int]


def _row(number: int, name: str, label: int, loaded: Loaded, offset: int) -> _Row:
    assert loaded.picture is not None
    height, width = loaded.picture.pixels.shape[:2]
    return _Row(number, name, label, offset, len(loaded.jpeg), (height, width))
