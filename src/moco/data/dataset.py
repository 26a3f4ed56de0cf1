"""`--data` to a packed data set: find it, pack it unless it is packed already, map it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from moco.config import StoreConfig
from moco.console import say
from moco.data import catalog, shapes
from moco.data.folder import fingerprint, scan
from moco.data.layout import Layout, Split, arrange
from moco.data.pack import pack_arrays, pack_items
from moco.data.store import FORMAT, Dataset, Store
from moco.errors import UserError


def open_dataset(spec: str | None, config: StoreConfig, short_side: int) -> Dataset:
    """The data set that `spec` names, packed at `short_side` pixels and mapped.

    The store is keyed by the files' names, sizes and times, so a changed folder is packed anew and an
    unchanged one is not read again. Of two runs that start at once, one packs and the other waits.
    Raises `UserError` for anything that can't be read as a data set.
    """
    if not spec:
        raise UserError("no data: give --data FOLDER (or a .tar, or the built-in `shapes`)")
    cache = cache_folder(config)
    if spec == "shapes":
        size = shapes.SIZES["train"], shapes.SIZES["val"]
        folder = _packed(cache, _key("shapes", shapes.VERSION, *size), _pack_shapes)
        note = f"built-in shapes: {size[0]} train and {size[1]} validation images, {len(shapes.CLASSES)} classes"
    else:
        if spec in catalog.DATASETS and not Path(spec).exists():
            spec = str(catalog.find(spec))
        items = scan(spec)
        layout = arrange(items, config.labels, config.holdout)
        parts = (fingerprint(items), short_side, config.labels, config.holdout)
        folder = _packed(cache, _key(*parts), lambda path: _pack_layout(path, layout, short_side, config.max_bad))
        note = layout.note
    val = folder / "val"
    return Dataset(Store.open(folder / "train"), Store.open(val) if val.exists() else None, note)


def cache_folder(config: StoreConfig) -> Path:
    """Where packed stores are kept: `store.cache`, else `$MOCO_CACHE`, else `~/.cache/moco`."""
    return Path(config.cache or os.environ.get("MOCO_CACHE") or Path.home() / ".cache" / "moco").expanduser()


def _key(*parts: object) -> str:
    return hashlib.sha256(repr((FORMAT, *parts)).encode()).hexdigest()[:20]


def _packed(cache: Path, key: str, pack: Callable[[Path], None]) -> Path:
    """The folder of the store `key`, made by `pack(folder)` if it isn't there."""
    folder = cache / key
    with _locked(cache, key):
        if folder.exists():
            return folder
        temporary = cache / f"{key}.partial"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            pack(temporary)
            temporary.rename(folder)
        except OSError as error:
            raise UserError(
                f"can't pack into {cache}: {error.strerror or error} (--store.cache DIR elsewhere?)"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


@contextlib.contextmanager
def _locked(cache: Path, key: str) -> Iterator[None]:
    """Hold the store's lock; the kernel lets go of it when the process ends, however it ends."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        handle = os.open(cache / f"{key}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"can't write the cache {cache}: {error.strerror} (give --store.cache DIR)") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run is packing this data set, waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _pack_layout(folder: Path, layout: Layout, short_side: int, max_bad: float) -> None:
    splits: dict[str, Split] = {"train": layout.train}
    if layout.val is not None:
        splits["val"] = layout.val
    for name, split in splits.items():
        pack_items(folder / name, split.items, split.labels, layout.classes, short_side, max_bad, name)


def _pack_shapes(folder: Path) -> None:
    for split, count in shapes.SIZES.items():
        images = ((f"{split}/{i}", shapes.make_image(split, i), shapes.label_of(i)) for i in range(count))
        pack_arrays(folder / split, images, list(shapes.CLASSES))
