"""The packed stores of a cache: what each was made of, how large it is, when it was last used; and removing some."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moco.data import cache
from moco.data.chunks import MANIFEST, TABLES
from moco.data.remote import CHUNK, LOCK
from moco.data.removal import TEMPORARY, remove_store
from moco.errors import UserError, in_a_line
from moco.files import locked

_STORE = re.compile(r"([0-9a-f]{20})(-[0-9a-f]{12})?")  # without contents in the name: an earlier format
_REMOTE = re.compile(r"remote-[0-9a-f]{20}")  # what was fetched of a packed store elsewhere
_FETCHED = re.compile(rf"{CHUNK.pattern}|({'|'.join(TABLES)})\.npy|{re.escape(MANIFEST)}|{re.escape(LOCK)}|{TEMPORARY}")
_SOURCE = re.compile(r"[0-9a-f]{20}\.source")


@dataclass(frozen=True)
class PackedStore:
    """One store.

    Attributes:
        path: its folder.
        sources: what people called the data that it was made of, or found the same.
        images: how many files, None for one that can't be read.
        disk_bytes: what it takes.
        used_s: when a run last opened it, seconds since 1970.
        ours: whether this program's marker is in it: only then is it ever removed.
    """

    path: str
    sources: list[str]
    images: int | None
    disk_bytes: int
    used_s: float
    ours: bool

    @property
    def unused_days(self) -> float:
        """Days since it was last used."""
        return max(0.0, (time.time() - self.used_s) / cache.DAY_S)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as `moco cache --json` prints them."""
        return {**asdict(self), "unused_days": round(self.unused_days, 2)}


def stores_in(folder: Path) -> list[PackedStore]:
    """The stores in a cache, the one that was used last first; none where there is no such folder."""
    if not folder.is_dir():
        return []
    sources = _sources(folder)
    found = [
        _store(path, [source for source, name in sources if name == path.name])
        for path in folder.iterdir()
        if (_STORE.fullmatch(path.name) or _REMOTE.fullmatch(path.name)) and path.is_dir() and not path.is_symlink()
    ]
    return sorted(found, key=lambda store: (-store.used_s, store.path))


def remove(store: PackedStore) -> str:
    """Remove a store of ours, file by file, and the records that point at it: a line on what was done.

    Files in it that aren't ours stay. Raises `UserError` where it isn't ours, is being packed, or can't be removed.
    """
    path = Path(store.path)
    form = _STORE.fullmatch(path.name)
    if not (form or _REMOTE.fullmatch(path.name)) or not cache.is_ours(path):
        raise UserError(f"{path} has no marker of moco's: it is left alone")
    lock = path.parent / f"{form[1]}.lock" if form else path / LOCK
    with locked(lock, f"{path} is left alone: a run is packing the same data, or fetching it"):
        try:
            foreign = remove_store(path) if form else remove_store(path, _FETCHED)
            for record, name in _records(path.parent):
                if name == path.name:
                    record.unlink()
        except OSError as error:
            raise UserError(f"can't remove {path}: {in_a_line(error)}") from error
    return f"{path}: all but {len(foreign)} files that aren't moco's ({foreign[0]})" if foreign else str(path)


def _store(path: Path, sources: Sequence[str]) -> PackedStore:
    remote = _REMOTE.fullmatch(path.name) is not None
    try:
        manifest = path / (MANIFEST if remote else "images/manifest.json")
        images = len(json.loads(manifest.read_bytes())["names"])
        if remote:
            sources = [json.loads((path / cache.MARKER).read_bytes())["url"]]
    except (OSError, ValueError, LookupError, TypeError):  # of an earlier format, or damaged: shown without
        images = None
    size = sum(map(_bytes, path.rglob("*")))
    return PackedStore(str(path), sorted(set(sources)), images, size, cache.used_s(path), cache.is_ours(path))


def _bytes(path: Path) -> int:
    try:
        return path.lstat().st_size if path.is_file() and not path.is_symlink() else 0
    except FileNotFoundError:  # removed meanwhile
        return 0


def _sources(folder: Path) -> list[tuple[str, str]]:
    """(what people called it, its store) of each place that was packed."""
    named = []
    for path, store in _records(folder):
        try:
            named.append((str(json.loads(path.read_bytes())["data"]), store))
        except (OSError, ValueError, LookupError, TypeError):  # removed meanwhile
            continue
    return named


def _records(folder: Path) -> Iterator[tuple[Path, str]]:
    """(file, name of the store) of each record of a packed place that can be read."""
    for path in sorted(folder.glob("*.source")):
        if not _SOURCE.fullmatch(path.name):
            continue
        try:
            yield path, str(json.loads(path.read_bytes())["store"])
        except (OSError, ValueError, LookupError, TypeError):  # not a record: nobody's to touch
            continue
