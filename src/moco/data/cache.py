"""The folder of packed stores: one lock a data set, what was packed from where, and what a killed run left.

SHAPE-CONTENT/          a store: SHAPE of names, sizes and short side, CONTENT of the files' bytes
SHAPE.WHO.partial/      being packed, or left by a run that was killed; WHO is a host and a user
SHAPE.lock              held while packing
PLACE.source            JSON: which store was last packed from this place, and how its files looked then
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from moco.console import say
from moco.data.removal import MARKER, remove_store
from moco.errors import UserError
from moco.files import locked, write_json

DAY_S = 24 * 3600
_PARTIAL = re.compile(r"([0-9a-f]{20})\.[0-9a-f]{8}\.partial")


@dataclass(frozen=True)
class Record:
    """What a place held when it was last looked at.

    Attributes:
        data: what a person called it.
        store: name of its store.
        images: files in it.
        listing: digest of their names, sizes, times and inodes.
    """

    data: str
    store: str
    images: int
    listing: str


@contextlib.contextmanager
def packing(cache: Path, shape: str) -> Iterator[None]:
    """Hold the lock of the data sets of this shape; a second run waits. Raises `UserError` if it can't be had."""
    with contextlib.ExitStack() as held:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            busy = "another run is packing this data set, waiting for it"
            held.enter_context(locked(cache / f"{shape}.lock", busy, say))
        except (OSError, UserError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"can't write the cache {cache}: {reason} (give --store.cache DIR)") from error
        yield


def recall(cache: Path, place: str) -> Record | None:
    """What is known of a place; None where nothing is. Raises `ValueError` for a damaged record."""
    try:
        found = json.loads((cache / f"{place}.source").read_bytes())
        return Record(str(found["data"]), str(found["store"]), int(found["images"]), str(found["listing"]))
    except OSError:  # none, or another user's: then the files are compared by content
        return None
    except (TypeError, LookupError) as error:
        raise ValueError(f"no field {error}") from error


def remember(cache: Path, place: str, record: Record) -> None:
    """Note what a place holds. Raises `UserError` if it can't be written."""
    write_json(cache / f"{place}.source", asdict(record))


def change(cache: Path, place: str, now: Record) -> str:
    """How a place differs from when it was last packed, in a phrase; "" where it doesn't, or never was."""
    try:
        record = recall(cache, place)
    except ValueError as error:
        return f"{now.data} was packed before, but the record of it is damaged ({error})"
    if record is None or record.listing == now.listing or not (cache / record.store).is_dir():
        return ""
    old = f"old copy: {cache / record.store}"
    return f"{now.data} has changed since it was packed ({record.images} images then, {now.images} now; {old})"


def begin(cache: Path, shape: str) -> Path:
    """A new folder for a store in the making, marked as this program's; call it with the lock held."""
    me = _me()
    folder = cache / f"{shape}.{hashlib.sha256(repr(me).encode()).hexdigest()[:8]}.partial"
    if folder.exists():
        _remove(folder)
    folder.mkdir()
    try:
        (folder / MARKER).write_text(json.dumps({"program": "moco", **me, "pid": os.getpid()}) + "\n")
    except BaseException:
        shutil.rmtree(folder)  # made two lines above
        raise
    return folder


def discard(folder: Path) -> None:
    """Remove a store that `begin` began, if it is still there."""
    if folder.exists():
        _remove(folder)


def is_ours(folder: Path) -> bool:
    """Whether this program made the store in `folder`: by its marker."""
    return _mark(folder) is not None


def touch(folder: Path) -> None:
    """Note that a store is used now: by its marker's time. A cache that may only be read keeps the old one."""
    with contextlib.suppress(OSError):
        os.utime(folder / MARKER)


def used_s(folder: Path) -> float:
    """When a store was last used, in seconds since 1970."""
    marker = folder / MARKER
    return (marker if marker.exists() else folder).stat().st_mtime


def settle(partial: Path, folder: Path) -> None:
    """Give the whole store its name; what has that name, a damaged store, is removed if this program made it.

    What else lies in there is set aside, with a line.
    """
    if folder.exists() and (foreign := _files_removed(folder)):
        aside = next(path for n in count(1) if not (path := folder.with_name(f"{folder.name}.aside-{n}")).exists())
        folder.rename(aside)
        say(f"{foreign[0]} in the damaged store isn't moco's: it is in {aside} now")
    partial.rename(folder)


def clear_abandoned(cache: Path) -> None:
    """Remove half-made stores whose runs are gone for certain; say which others lie there.

    For certain: the name's form and the marker are ours, and so is the host, nobody holds the lock, and either
    this machine has not been restarted since (locks then count, whatever disk it is) or a day has passed. Locks of
    network disks may be local: another machine's packing can't be told from its ruins.
    """
    for folder in sorted(cache.glob("*.partial")):
        form, mark = _PARTIAL.fullmatch(folder.name), _mark(folder)
        if form is None or mark is None:
            continue
        me = _me()
        age_s = time.time() - _begun_s(folder)
        here = mark.get("host") == me["host"]
        if not here or (mark.get("boot") != me["boot"] and age_s < DAY_S):
            if age_s > DAY_S:
                say(f"left alone: {folder}, begun by {mark.get('host')} {age_s / DAY_S:.0f} days ago")
            continue
        try:
            with locked(cache / f"{form[1]}.lock", "packing goes on"):
                _remove(folder)
        except UserError as error:
            if str(error) != "packing goes on":
                say(f"left alone: {error}")


def _remove(folder: Path) -> None:
    """Remove a store that carries our mark, or an empty folder.

    Raises `UserError` where it doesn't carry it, holds anything else, or can't be removed.
    """
    if foreign := _files_removed(folder):
        raise UserError(f"can't remove {folder}: {foreign[0]} isn't moco's; move it away, or give --store.cache DIR")


def _files_removed(folder: Path) -> list[str]:
    """Remove what of `folder` is a store's, and the folder itself unless something else is in it: that is returned.

    Raises `UserError` where it carries no mark of ours and isn't empty, or can't be removed.
    """
    try:
        if _mark(folder) is None:
            folder.rmdir()  # a run killed before it could write the mark leaves it empty
            return []
        return remove_store(folder)
    except OSError as error:
        what = "moco did not make it" if _mark(folder) is None else error.strerror
        raise UserError(f"can't remove {folder}: {what}; move it away, or give --store.cache DIR") from error


def _mark(folder: Path) -> dict[str, Any] | None:
    """What the marker says of who made `folder`; None if there is no marker of ours."""
    try:
        mark = json.loads((folder / MARKER).read_bytes())
    except (OSError, ValueError):
        return None
    return mark if isinstance(mark, dict) and mark.get("program") == "moco" else None


def _begun_s(folder: Path) -> float:
    try:
        return (folder / MARKER).stat().st_mtime
    except OSError:  # just removed, by the run that packed it
        return time.time()


def _me() -> dict[str, str | int]:
    """This machine, since it was started, and this user."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # no Linux: then a day has to pass
        boot = f"unknown {os.getpid()}"
    return {"host": socket.gethostname(), "boot": boot, "user": os.getuid() if hasattr(os, "getuid") else 0}
