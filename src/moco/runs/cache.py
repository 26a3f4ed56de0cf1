"""The cache of packed stores: what is in it, and removing what nobody has used for long."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from moco.config import StoreConfig
from moco.data import cache
from moco.data.dataset import cache_folder
from moco.data.stores import PackedStore, remove, stores_in
from moco.errors import UserError


@dataclass(frozen=True)
class Pruned:
    """What `prune_stores` did.

    Attributes:
        removed: the stores that are gone.
        freed_bytes: what they took.
        notes: a line for each that was left alone, or of which something was.
    """

    removed: list[PackedStore]
    freed_bytes: int
    notes: list[str]


def list_stores(folder: str | os.PathLike[str] | None = None) -> list[PackedStore]:
    """The packed stores in `folder` (default: where runs keep theirs), the one that was used last first."""
    return stores_in(_place(folder))


def prune_stores(
    folder: str | os.PathLike[str] | None = None, older_than_days: float | None = None, everything: bool = False
) -> Pruned:
    """Remove the stores that no run has opened for `older_than_days`, or, with `everything`, all.

    Only folders with this program's marker are touched, and in them only files that it wrote. Runs that have a store
    open keep it until they end; the next one packs the pictures again. Raises `UserError` unless it is said which.
    """
    if everything == (older_than_days is not None):
        raise UserError("say which stores to remove: --older-than DAYS, or --all")
    if older_than_days is not None and not older_than_days >= 0:
        raise UserError(f"--older-than is {older_than_days}, give 0 days or more")
    place = _place(folder)
    removed, notes = [], []
    if place.is_dir():
        cache.clear_abandoned(place)
    for store in stores_in(place):
        if older_than_days is not None and store.unused_days < older_than_days:
            continue
        try:
            line = remove(store)
        except UserError as error:
            notes.append(str(error))
            continue
        removed.append(store)
        if line != store.path:
            notes.append(line)
    return Pruned(removed, sum(store.disk_bytes for store in removed), notes)


def _place(folder: str | os.PathLike[str] | None) -> Path:
    return cache_folder(StoreConfig()) if folder is None else Path(folder).expanduser()
