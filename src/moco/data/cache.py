"""The folder of packed stores: one lock a store, what was packed from where, and what a killed run left.

KEY/                the store, a folder for each split
KEY.partial/        being packed, or left by a run that was killed
KEY.lock            held while packing
IDENTITY.source     JSON: which store was last packed from this place, and of how many images
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from moco.console import say
from moco.errors import UserError
from moco.files import write_json


@contextlib.contextmanager
def locked(cache: Path, key: str) -> Iterator[None]:
    """Hold the store's lock; the kernel lets go of it when the process ends, however it ends."""
    handle = _open(cache, key)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run is packing this data set, waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            reason = f"can't lock {cache / key}.lock: {error.strerror}"
            raise UserError(f"{reason} (give --store.cache DIR on a disk with locks)") from error
        yield
    finally:
        os.close(handle)


def change(cache: Path, identity: str, key: str, count: int) -> str:
    """How a place differs from when it was last packed, in a phrase; "" where it doesn't or never was."""
    path = cache / f"{identity}.source"
    if not path.exists():
        return ""
    try:
        before = json.loads(path.read_bytes())
        old, then = cache / before["store"], before["images"]
    except (OSError, ValueError, TypeError, LookupError) as error:
        return f"was packed before, but the record of it is damaged ({error})"
    if old.name == key:
        return ""
    return f"has changed since it was packed ({then} images then, {count} now; old copy: {old})"


def remember(cache: Path, identity: str, key: str, name: str, count: int) -> None:
    """Note that the place `identity`, called `name`, was packed as `key`. Raises `UserError` if it can't be written."""
    write_json(cache / f"{identity}.source", {"data": name, "store": key, "images": count})


def clear_abandoned(cache: Path) -> None:
    """Remove half-made stores whose runs were killed: those whose lock nobody holds."""
    for partial in cache.glob("*.partial"):
        handle = _open(cache, partial.stem)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(partial, ignore_errors=True)
        finally:
            os.close(handle)


def _open(cache: Path, key: str) -> int:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        return os.open(cache / f"{key}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"can't write the cache {cache}: {error.strerror} (give --store.cache DIR)") from error
