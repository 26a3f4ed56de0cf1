"""`--data` to a packed data set: find it, pack it unless it is packed already, map it."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from moco.config import StoreConfig
from moco.console import say
from moco.data import cache, catalog, shapes
from moco.data.chunks import MANIFEST, Opened, is_packed, open_chunks, options_of
from moco.data.compressed import ENCODING
from moco.data.finding import Finder, ToPack, pack_unless_found
from moco.data.folder import fingerprint, parts, scan, shape_of
from moco.data.format import Format, decide, free_bytes, raw_bytes
from moco.data.images import BadImage, read_picture
from moco.data.item import Item
from moco.data.layout import Layout, Members, arrange
from moco.data.pack import check_skipped, pack_arrays, pack_items
from moco.data.pixels import FORMAT, Pixels
from moco.data.ranges import Ranges
from moco.data.remote import is_remote, open_remote
from moco.data.store import Store
from moco.errors import UserError, nearest, printable
from moco.files import expanded

NO_DATA = "no data: give --data FOLDER (or a .tar or .zip, or the built-in `shapes`)"
LOOKED_AT = 16  # files whose sizes `facts` reads


@dataclass(frozen=True)
class Dataset:
    """What a run trains and is measured on.

    Attributes:
        train: the training split.
        val: the validation split, None without labels, or where nothing is held out.
        note: one line on how it was read.
        source: the absolute path that it was read from, several joined by commas; a built-in set's name.
        no_val: why there is no validation split, to be put after the data's name; "" if there is one.
        ranges: of each kind of more than 8 bits, by its name, what became black and white (`levels.Range`).
        format: how the images are kept.
    """

    train: Store
    val: Store | None
    note: str
    source: str = ""
    no_val: str = ""
    ranges: dict[str, dict[str, Any]] = field(default_factory=dict)
    format: Format = "raw"

    @property
    def classes(self) -> list[str]:
        """Class names, empty without labels."""
        return self.train.classes

    @property
    def fingerprints(self) -> dict[str, str]:
        """Digest of each split's pixels and labels."""
        found = {"train": self.train.fingerprint}
        return found if self.val is None else {**found, "val": self.val.fingerprint}


def open_dataset(spec: str | None, config: StoreConfig, short_side: int) -> Dataset:
    """The data set that `spec` names, packed at `short_side` pixels and mapped.

    A place that wasn't touched since it was packed (names, sizes, times, inodes, and the bytes of a few files) is
    not read again; where it was, and in a new place, the bytes of all files are compared with those that a store
    of the same names and sizes was made of, and only if they differ it is packed, with a line that says so.
    Labels and splits are not part of it. What is packed, pixels or JPEGs, is `config.format`'s to say; `auto` takes the
    store that is there, and else decides by the free disk, with a line. A damaged store is packed again. Of two runs
    that start at once, one packs and the other waits.
    Raises `UserError` for anything that can't be read as a data set, for too many bad images, at every start, and
    where the cache can't be written.
    """
    if not spec:
        raise UserError(NO_DATA)
    if (stored := _stored(spec, config)) is not None:
        return _packed_elsewhere(spec, *stored, config, short_side)
    folder = cache_folder(config)
    source, pixels = _opened(_sources(spec, config, short_side), folder, config.format)
    cache.touch(pixels.folder.parent)
    check_skipped(pixels.skipped, len(pixels), config.max_bad, len(pixels))
    say(_count_line(pixels))
    number = {id(item): n for n, item in enumerate(source.items)}
    stores = {
        name: _split(pixels, name, members, number, source.layout.classes)
        for name, members in source.layout.splits.items()
    }
    layout = source.layout
    return Dataset(
        stores["train"], stores.get("val"), layout.note, source.where, layout.no_val, pixels.ranges, source.format
    )


def _packed_elsewhere(spec: str, found: Opened, where: str, config: StoreConfig, short_side: int) -> Dataset:
    """What `moco pack` wrote. Raises `UserError` where it was packed with other options than it is asked for with."""
    manifest = found.manifest
    wanted = options_of(config, short_side)
    wrong = [f"--{name} {value}" for name, value in manifest["options"].items() if wanted.get(name) != value]
    if wrong:
        raise UserError(f"{printable(spec)} was packed with other options: give {' '.join(wrong)}, or pack it again")
    if config.format == "raw":
        raise UserError(f"{printable(spec)} is a packed store of JPEGs: leave out --store.format raw")
    skipped = manifest["skipped"]
    check_skipped(skipped, len(manifest["names"]) + len(skipped), config.max_bad, len(manifest["names"]) + len(skipped))
    left_out = f" (listed in {MANIFEST} there)" if skipped else ""
    say(f"{len(manifest['names'])} images in the packed store, {len(skipped)} left out{left_out}")
    splits, note = found.splits, f"packed store: {manifest['note']}"
    return Dataset(splits["train"], splits.get("val"), note, where, manifest["no_val"], manifest["ranges"], "jpeg")


def _opened(
    source: Callable[[Format], ToPack], folder: Path, asked: Literal["auto", "raw", "jpeg"]
) -> tuple[ToPack, Pixels]:
    """The source in the format that was `asked` for, or is there, or suits the disk; and its pixels."""
    formats: tuple[Format, ...] = ("raw", "jpeg") if asked == "auto" else (asked,)
    for made in map(source, formats):
        pixels = Finder(folder, made).find()
        if pixels is not None:
            return made, pixels
    if asked == "auto":
        raw = source("raw")
        try:
            decided, why = decide(raw.raw_bytes(), free_bytes(folder), str(folder))
        except OSError as error:
            raise UserError(f"can't look at the disk of {folder}: {error.strerror} (give --store.cache DIR)") from error
        if decided == "jpeg":
            say(why)
        formats = (decided,)
    made = source(formats[0])
    return made, pack_unless_found(Finder(folder, made))


def packed(spec: str, layout: Layout, config: StoreConfig, short_side: int) -> Pixels | None:
    """The pixels of all that `layout`, of the files that `spec` names, uses; None where they aren't packed yet.

    JPEGs don't count: what is read from files mustn't depend on whether they were packed.

    What it holds is compared as by `open_dataset`. Raises `UserError` where a store, or the cache, can't be read.
    """
    return Finder(cache_folder(config), _arranged(spec, layout, config, short_side)("raw")).find()


def cache_folder(config: StoreConfig) -> Path:
    """Where packed stores are kept: `store.cache`, else `$MOCO_CACHE`, else `~/.cache/moco`."""
    given = config.cache or os.environ.get("MOCO_CACHE") or "~/.cache/moco"
    return expanded(given, "--store.cache")


def facts(spec: str | None, config: StoreConfig) -> tuple[int, int]:
    """How many training images `spec` names, and the median of the short sides of some of them, in pixels.

    Raises `UserError` as `open_dataset` does, and where none of those looked at can be read.
    """
    if not spec:
        raise UserError(NO_DATA)
    if built_in(spec):
        return shapes.SIZES["train"], shapes.SIDE
    if (stored := _stored(spec, config)) is not None:
        train = stored[0].splits["train"]
        return len(train), int(np.median(np.minimum(train.heights, train.widths)))
    layout = arrange(scan(place(spec)), config.labels, config.holdout, spec)
    items = layout.train.items
    sides = []
    for item in items[:: max(1, len(items) // LOOKED_AT)]:
        with contextlib.suppress(BadImage, OSError):  # packing counts and names them
            picture = read_picture(item.read(), 1)
            sides.append(min(picture.width, picture.height))
    if not sides:
        raise UserError(f"--data {printable(spec)}: none of the images looked at can be read")
    return len(items), int(np.median(sides))


def is_store(spec: str) -> bool:
    """Whether `spec` names what `moco pack` made, here or elsewhere."""
    return is_remote(spec) or (not built_in(spec) and is_packed(expanded(place(spec), "--data")))


def built_in(spec: str) -> bool:
    """Whether `spec` names the pictures that this program draws. Raises `UserError` where a folder has that name."""
    if spec == "shapes" and os.path.lexists(spec):
        raise UserError("--data shapes: there is a folder of this name, and built-in pictures: give ./shapes for yours")
    return spec == "shapes"


def _stored(spec: str, config: StoreConfig) -> tuple[Opened, str] | None:
    """What `moco pack` made, and where it is; None where `spec` names something else."""
    if not is_store(spec):
        return None
    if is_remote(spec):
        return open_remote(spec, cache_folder(config), config.remote_gb), spec
    folder = expanded(place(spec), "--data")
    return open_chunks(folder), str(folder.resolve())


def place(spec: str) -> str:
    """The path that `spec` names: itself, or where a data set of the catalog was downloaded to."""
    if os.path.lexists(spec) or not spec.isidentifier():
        return spec
    if spec not in catalog.DATASETS:
        known = nearest(spec, catalog.DATASETS)
        raise UserError(f"--data {spec}: no such folder, and no data set of this name: {known}")
    return str(catalog.find(spec))


def _sources(spec: str, config: StoreConfig, short_side: int) -> Callable[[Format], ToPack]:
    """What `spec` names, to be kept in either format; it is listed once."""
    if built_in(spec):
        return _shapes
    layout = arrange(scan(place(spec)), config.labels, config.holdout, printable(spec))
    return _arranged(spec, layout, config, short_side)


def _arranged(spec: str, layout: Layout, config: StoreConfig, short_side: int) -> Callable[[Format], ToPack]:
    path, items = place(spec), layout.used
    ranges = Ranges(config.range, layout.pools)
    where = [str(Path(part).expanduser().resolve()) for part in parts(path)]
    shape, listing = shape_of(items), fingerprint(items)

    def source(format: Format) -> ToPack:
        how = (short_side, config.range, *_kept_as(format))
        return ToPack(
            name=printable(spec),
            where=",".join(where),
            place=_key(where, *how),
            shape=_key(shape, *how),
            listing=listing,
            items=items,
            layout=layout,
            pack=lambda folder: pack_items(folder, items, short_side, config.max_bad, ranges, jpeg=format == "jpeg"),
            raw_bytes=lambda: raw_bytes(items, short_side),
            format=format,
        )

    return source


def _shapes(format: Format) -> ToPack:
    counts = shapes.SIZES
    made = {
        split: Members([Item(f"{split}/{i}", Path("shapes"), 0, 0, 0) for i in range(count)], labels)
        for split, count in counts.items()
        if (labels := [shapes.label_of(i) for i in range(count)])
    }
    items = [item for members in made.values() for item in members.items]
    text = f"{counts['train']} train and {counts['val']} validation images, {len(shapes.CLASSES)} classes"
    layout = Layout(made["train"], made["val"], list(shapes.CLASSES), f"built-in shapes: {text}", [items])
    key = _key("shapes", shapes.VERSION, counts["train"], counts["val"], *_kept_as(format))
    numbers = [(split, i) for split, count in counts.items() for i in range(count)]

    def pack(folder: Path) -> None:
        drawn = ((f"{split}/{i}", shapes.make_image(split, i)) for split, i in numbers)
        pack_arrays(folder, drawn, jpeg=format == "jpeg")

    return ToPack(
        "shapes", "shapes", _key("shapes", *_kept_as(format)), key, key, items, layout, pack,
        lambda: 3 * shapes.SIDE**2 * len(items), format, built_in=True,
    )  # fmt: skip


def _kept_as(format: Format) -> tuple[str, ...]:
    """What of the format belongs to a store's name; nothing for pixels: those before there was a choice are found."""
    return () if format == "raw" else (ENCODING,)


def _key(*what: object) -> str:
    return hashlib.sha256(repr((FORMAT, *what)).encode(errors="surrogateescape")).hexdigest()[:20]


def _split(pixels: Pixels, name: str, members: Members, number: dict[int, int], classes: list[str]) -> Store:
    images = np.array([number[id(item)] for item in members.items], np.int64)
    kept = pixels.there[images]
    if not kept.any():
        raise UserError(f"no readable image is left for {name}: all {len(images)} are bad")
    return pixels.split(images[kept], np.array(members.labels, np.int64)[kept], classes)


def _count_line(pixels: Pixels) -> str:
    """What every start says of the store: nothing is missing from a run unsaid."""
    left_out = len(pixels.skipped)
    line = f"{len(pixels) - left_out} images in the store, {left_out} left out"
    unread = f", {len(pixels.unread)} of them because they can't be read" if pixels.unread else ""
    return line + (f"{unread} (listed in {pixels.folder / 'manifest.json'})" if left_out else "")
