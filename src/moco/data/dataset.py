"""`--data` to a packed data set: find it, pack it unless it is packed already, map it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from moco.config import StoreConfig
from moco.console import say
from moco.data import catalog, shapes
from moco.data.cache import change, clear_abandoned, locked, remember
from moco.data.folder import fingerprint, parts, scan
from moco.data.item import printable
from moco.data.layout import Layout, Split, arrange
from moco.data.pack import pack_arrays, pack_items
from moco.data.ranges import Ranges
from moco.data.store import FORMAT, Dataset, Store
from moco.errors import UserError, nearest
from moco.files import sync_folder


def open_dataset(spec: str | None, config: StoreConfig, short_side: int) -> Dataset:
    """The data set that `spec` names, packed at `short_side` pixels and mapped.

    The store is keyed by the files' names, sizes and times, so a changed folder is packed anew (with a line
    that says so) and an unchanged one is not read again. A damaged store is packed again. Of two runs that
    start at once, one packs and the other waits. A packed store needs no write access.
    Raises `UserError` for anything that can't be read as a data set, and where the cache can't be written.
    """
    if not spec:
        raise UserError("no data: give --data FOLDER (or a .tar, or the built-in `shapes`)")
    cache = cache_folder(config)
    source = _shapes() if spec == "shapes" else _files(spec, config, short_side)
    stores = _mapped(cache / source.key, source)
    if stores is None:
        stores = _packed(cache, source)
    return Dataset(stores["train"], stores.get("val"), source.note)


def cache_folder(config: StoreConfig) -> Path:
    """Where packed stores are kept: `store.cache`, else `$MOCO_CACHE`, else `~/.cache/moco`."""
    return Path(config.cache or os.environ.get("MOCO_CACHE") or Path.home() / ".cache" / "moco").expanduser()


@dataclass(frozen=True)
class _Source:
    """What is to be packed.

    Attributes:
        name: what a person calls it.
        identity: the same for the same place packed in the same way, whatever is there now.
        key: the same for the same pictures packed in the same way.
        counts: images by split.
        pack: writes the store of one split into a folder.
        note: one line on how it was read.
    """

    name: str
    identity: str
    key: str
    counts: dict[str, int]
    pack: Callable[[str, Path], None]
    note: str


def _files(spec: str, config: StoreConfig, short_side: int) -> _Source:
    path = place(spec)
    items = scan(path)
    layout = arrange(items, config.labels, config.holdout)
    how = (short_side, config.labels, config.holdout, config.range)
    ranges = Ranges(config.range, [split.items for split in _splits(layout).values()])
    where = [str(Path(part).expanduser().resolve()) for part in parts(path)]
    return _Source(
        name=printable(spec),
        identity=_key(where, *how),
        key=_key(fingerprint(items), *how),
        counts={name: len(split.items) for name, split in _splits(layout).items()},
        pack=lambda split, folder: _pack_split(folder, layout, split, short_side, config.max_bad, ranges),
        note=layout.note,
    )


def _splits(layout: Layout) -> dict[str, Split]:
    return {"train": layout.train} if layout.val is None else {"train": layout.train, "val": layout.val}


def _pack_split(folder: Path, layout: Layout, split: str, short_side: int, max_bad: float, ranges: Ranges) -> None:
    chosen = _splits(layout)[split]
    pack_items(folder, chosen.items, chosen.labels, layout.classes, short_side, max_bad, split, ranges=ranges)


def place(spec: str) -> str:
    """The path that `spec` names: itself, or where a data set of the catalog was downloaded to."""
    if os.path.lexists(spec) or not spec.isidentifier():
        return spec
    if spec not in catalog.DATASETS:
        known = nearest(spec, catalog.DATASETS)
        raise UserError(f"--data {spec}: no such folder, and no data set of this name: {known}")
    return str(catalog.find(spec))


def _shapes() -> _Source:
    counts = shapes.SIZES
    key = _key("shapes", shapes.VERSION, counts["train"], counts["val"])
    text = f"{counts['train']} train and {counts['val']} validation images, {len(shapes.CLASSES)} classes"
    return _Source("shapes", _key("shapes"), key, counts, _pack_shapes, f"built-in shapes: {text}")


def _pack_shapes(split: str, folder: Path) -> None:
    numbers = range(shapes.SIZES[split])
    images = ((f"{split}/{i}", shapes.make_image(split, i), shapes.label_of(i)) for i in numbers)
    pack_arrays(folder, images, list(shapes.CLASSES))


def _key(*what: object) -> str:
    return hashlib.sha256(repr((FORMAT, *what)).encode(errors="surrogateescape")).hexdigest()[:20]


def _mapped(folder: Path, source: _Source, report: bool = False) -> dict[str, Store] | None:
    """The stores of each split, None if they aren't there or damaged; `report` says which damage."""
    if not folder.exists():
        return None
    try:
        return {split: Store.open(folder / split) for split in source.counts}
    except UserError as error:
        if report:
            say(f"{error}: packing it again")
        return None


def _packed(cache: Path, source: _Source) -> dict[str, Store]:
    """The stores, packed into the cache unless another run does so in this moment."""
    folder = cache / source.key
    with locked(cache, source.key):
        stores = _mapped(folder, source, report=True)
        if stores is not None:
            return stores
        said = change(cache, source.identity, source.key, sum(source.counts.values()))
        if said:
            say(f"{source.name} {said}: packing it again")
        clear_abandoned(cache)
        try:
            _pack_whole(folder, source)
            remember(cache, source.identity, source.key, source.name, sum(source.counts.values()))
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"can't pack into {cache}: {reason} (--store.cache DIR elsewhere?)") from error
    return {split: Store.open(folder / split) for split in source.counts}


def _pack_whole(folder: Path, source: _Source) -> None:
    """Make `folder` with all splits, or nothing; whatever was there is replaced."""
    temporary = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for split in source.counts:
            source.pack(split, temporary / split)
        sync_folder(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
