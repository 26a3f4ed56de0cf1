"""The images of a place one by one, decoded when they are asked for: nothing is packed, no labels are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from moco.config import StoreConfig
from moco.data import shapes
from moco.data.dataset import built_in, packed, place
from moco.data.depth import Kind
from moco.data.folder import fingerprint, parts, scan
from moco.data.images import Picture
from moco.data.item import Item, content_digest
from moco.data.layout import Layout, arrange
from moco.data.levels import Range, full_range
from moco.data.pack import Loaded, load
from moco.data.pixels import Pixels
from moco.data.ranges import Ranges
from moco.errors import UserError, printable


@dataclass(frozen=True)
class Listing:
    """Every image file of a place, in the order of their names.

    Attributes:
        source: the absolute path, several joined by commas; a built-in set's name.
        note: one line on what was found.
        names: paths inside the source, N of them.
        labels: int32 (N,), numbers of `classes`; -1 for an image outside the class folders.
        classes: class names, empty without labels.
        state: the same as long as no file is touched.
        load: the picture of a number, decoded, or why there is none.
        ranges: what becomes black and white in images of more than 8 bits.
    """

    source: str
    note: str
    names: list[str]
    labels: NDArray[np.int32]
    classes: list[str]
    state: str
    load: Callable[[int], Loaded]
    ranges: Callable[[Kind], Range] = full_range

    def __len__(self) -> int:
        return len(self.names)

    def label(self, number: int) -> str | None:
        """The class name of image `number`, None where there is none."""
        label = int(self.labels[number])
        return self.classes[label] if label >= 0 else None


def list_images(
    spec: str, config: StoreConfig, short_side: int, ranges: Mapping[str, Mapping[str, Any]] | None = None
) -> Listing:
    """What `spec`, anything that `--data` takes, holds; its images are decoded at `short_side` pixels.

    What a store of `config.cache` holds is taken from there: the same pixels. `ranges` is what became black and white
    in a run's images of more than 8 bits, by kind; of other kinds `config` and the images decide. Where the folders
    don't say what the classes are, a line says so and there are no labels.
    Raises `UserError` if there is no such place, or no image in it.
    """
    if built_in(spec):
        return _shapes()
    path = place(spec)
    items = scan(path)
    layout, note = _arranged(items, config, spec)
    found = _ranges(Ranges(config.range, layout.pools if layout else [items]), ranges or {})
    where = ",".join(str(Path(part).expanduser().resolve()) for part in parts(path))
    labels = np.full(len(items), -1, np.int32)
    if layout is not None and layout.classes:
        number = {id(item): n for n, item in enumerate(items)}
        for members in layout.splits.values():
            labels[[number[id(item)] for item in members.items]] = members.labels
    kept = _kept(spec, layout, config, short_side)

    def loaded(number: int) -> Loaded:
        there = kept.load(items[number]) if kept is not None else None
        return load(items[number], short_side, found) if there is None else there

    return Listing(
        where,
        note if kept is None else f"{note}; decoded before, in {kept.folder}",
        [item.name for item in items],
        labels,
        layout.classes if layout is not None else [],
        fingerprint(items),
        loaded,
        found,
    )


class _Kept:
    """Pictures read from a packed store with plain reads: pages of a mapping would count as this process's memory."""

    def __init__(self, pixels: Pixels, items: list[Item]) -> None:
        """`items` are the store's."""
        self.folder = pixels.folder
        self._pixels, self._number = pixels, {id(item): n for n, item in enumerate(items)}
        left_out = np.flatnonzero(~pixels.there).tolist()
        self._reasons = {n: reason for n, (_, reason) in zip(left_out, pixels.skipped, strict=True)}
        self._unread = frozenset(pixels.unread)
        self._begin = pixels.pixels.offset  # type: ignore[attr-defined]
        self._file = (self.folder / "pixels.npy").open("rb", buffering=0)  # it can be read when its name is gone, too
        finalize(self, self._file.close)
        self._reading = Lock()

    def load(self, item: Item) -> Loaded | None:
        """None for a file that isn't in the store, or couldn't be read then."""
        number = self._number.get(id(item))
        if number is None or number in self._unread:
            return None
        digest = self._pixels.contents[number].tobytes()
        height, width = self._pixels.sizes[number].tolist()
        if not height:
            return Loaded(None, digest, self._reasons[number])
        with self._reading:
            self._file.seek(self._begin + int(self._pixels.offsets[number]))
            content = self._file.read(3 * height * width)
        if len(content) < 3 * height * width:
            return None
        return Loaded(Picture(np.frombuffer(content, np.uint8).reshape(height, width, 3), width, height, ""), digest)


def _kept(spec: str, layout: Layout | None, config: StoreConfig, short_side: int) -> _Kept | None:
    stored = packed(spec, layout, config, short_side) if layout is not None else None
    if stored is None or layout is None or stored.ranges:  # ranges were the store's own; here the run's come first
        return None
    return _Kept(stored, layout.used)


def _arranged(items: list[Item], config: StoreConfig, spec: str) -> tuple[Layout | None, str]:
    """The classes as the folders say them, and a line; no layout where they contradict themselves."""
    if config.labels == "none":
        return None, f"{len(items)} images without labels (as asked)"
    try:
        layout = arrange(items, config.labels, 0.0, printable(spec))
    except UserError as error:
        if config.labels == "folders":
            raise
        return None, f"{len(items)} images without labels ({error})"
    classes = f"{len(layout.classes)} classes" if layout.classes else "no labels"
    return layout, f"{len(items)} images, {classes}"


def _ranges(own: Ranges, known: Mapping[str, Mapping[str, Any]]) -> Callable[[Kind], Range]:
    def of(kind: Kind) -> Range:
        return Range.from_dict(known[str(kind)]) if str(kind) in known else own(kind)

    return of


def _shapes() -> Listing:
    numbers = [(split, i) for split, count in shapes.SIZES.items() for i in range(count)]

    def draw(n: int) -> Loaded:
        pixels = shapes.make_image(*numbers[n])
        return Loaded(Picture(pixels, pixels.shape[1], pixels.shape[0], "shapes"), content_digest(pixels.tobytes()))

    return Listing(
        "shapes",
        f"built-in shapes: {len(numbers)} images, {len(shapes.CLASSES)} classes",
        [f"{split}/{i}" for split, i in numbers],
        np.array([shapes.label_of(i) for _, i in numbers], np.int32),
        list(shapes.CLASSES),
        f"shapes {shapes.VERSION}",
        draw,
    )
