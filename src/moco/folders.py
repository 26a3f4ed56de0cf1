"""Folders that are replaced whole: at any moment there is the old one or the new one, never a mixture of both."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from moco.errors import UserError, in_a_line
from moco.files import sync_folder

MARKER = ".made-by-moco"  # only in folders on their way in or out; one without it is never removed
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


@contextlib.contextmanager
def replaced(place: Path, names: Sequence[str]) -> Iterator[Path]:
    """A new folder beside `place` to write the files called `names` into; it becomes `place` at the end.

    The caller holds a lock. Files in `place` that are called otherwise are not ours: they stay there. What an earlier
    process left that was killed in here is cleared away first. After an exception `place` is as it was. Raises
    `UserError` where it can't be written.
    """
    try:
        recover(place, names)
        new = place.with_name(f".{place.name}-{os.getpid()}")
        new.mkdir()
        (new / MARKER).touch()
        try:
            yield new
            sync_folder(new)
            _put(new, place, names)
        finally:
            recover(place, names)
    except OSError as error:
        raise UserError(f"can't write {place}: {in_a_line(error)}") from error


def recover(place: Path, names: Sequence[str]) -> None:
    """Clear away what processes left that were killed while they replaced `place`; the caller holds a lock."""
    temporary = re.compile(rf"\.{re.escape(place.name)}-\d+(\.old)?")
    for left in sorted(place.parent.glob(f".{place.name}-*")):
        if not temporary.fullmatch(left.name) or not (left / MARKER).is_file():
            continue
        if left.name.endswith(".old") and not place.exists():
            left.rename(place)
            continue
        _keep_foreign(left, place, names)
        for entry in left.iterdir():
            if _ours(entry.name, names):
                entry.unlink()
        if {entry.name for entry in left.iterdir()} == {MARKER}:
            (left / MARKER).unlink()
            left.rmdir()
    (place / MARKER).unlink(missing_ok=True)
    if place.parent.is_dir():
        sync_folder(place.parent)


def _put(new: Path, place: Path, names: Sequence[str]) -> None:
    """Let `new` be `place` from one moment to the next; what was there is left under a name that `recover` knows."""
    if not place.is_dir():
        new.rename(place)
        return
    for entry in place.iterdir():
        if not _ours(entry.name, names) and entry.is_file():
            with contextlib.suppress(OSError):  # no hard links here: `recover` moves it, a moment later
                os.link(entry, new / entry.name, follow_symlinks=False)
    (place / MARKER).touch()
    if not _exchanged(new, place):
        old = new.with_name(new.name + ".old")
        place.rename(old)
        new.rename(place)
    sync_folder(place.parent)


def _keep_foreign(left: Path, place: Path, names: Sequence[str]) -> None:
    """Files in `left` that aren't ours go to `place`, unless the same file or another of its name is there."""
    for entry in left.iterdir():
        target = place / entry.name
        if _ours(entry.name, names) or entry.name == MARKER or not place.is_dir():
            continue
        if not os.path.lexists(target):
            entry.rename(target)
        elif entry.stat(follow_symlinks=False).st_ino == target.stat(follow_symlinks=False).st_ino:
            entry.unlink()  # a second name of the file that is there


def _ours(name: str, names: Sequence[str]) -> bool:
    """Whether it is one of `names`, or what `files.atomic` left of one."""
    return name in names or any(name.startswith(f".{ours}.") and name.endswith(".tmp") for ours in names)


def _exchanged(one: Path, other: Path) -> bool:
    """Swap two folders in one step (renameat2); False where the system or the disk can't."""
    if sys.platform != "linux":
        return False
    try:
        rename = ctypes.CDLL(None).renameat2
    except AttributeError:  # a C library without it
        return False
    return rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0
