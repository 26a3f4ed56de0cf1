"""Files that are there whole or not at all, and locks that die with their process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from moco.errors import UserError, in_a_line

GLANCE_S = 0.1  # a lock is asked for so long before it counts as held: somebody may only be looking


@contextlib.contextmanager
def atomic(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on success it is synced and renamed to `path`, else removed.

    Raises `UserError` where the folder can't be written or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # where the folder isn't one, there is nothing to remove
            temporary.unlink(missing_ok=True)
        raise UserError(f"can't write {path}: {error.strerror or error}") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(path: Path, busy: str, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock file at `path`, made if missing and never removed.

    `busy` says what another process that holds it is doing: it is raised as a `UserError`, or handed to `wait` once
    before waiting for as long as it takes. The kernel lets go of the lock when the process ends, however it ends
    (flock; on Windows msvcrt). Raises `UserError` too where the folder can't be written or its disk has no locks.
    """
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)  # a soft lock would outlive a kill -9
    try:
        try:
            lock.acquire(timeout=GLANCE_S, poll_interval=GLANCE_S / 10)
        except Timeout:
            if wait is None:
                raise UserError(busy) from None
            wait(busy)
            lock.acquire()
    except OSError as error:
        raise UserError(f"can't lock {path}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock file at `path`; a missing one nobody holds, and none is made.

    It is looked at by taking it for a moment, which `locked` waits out. False too where it can't be opened.
    """
    if sys.platform == "win32":
        if not path.is_file():
            return False
        try:
            with FileLock(path, thread_local=False, fallback_to_soft=False).acquire(blocking=False):
                return False
        except Timeout:
            return True
    import fcntl

    try:
        handle = os.open(path, os.O_RDONLY)  # another user's run may be looked at too
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)  # lets go of it
    return False


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with atomic(path, "w") as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path, what: str) -> Any:
    """Read JSON; `what` names the file's role in the `UserError` if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no {what} at {path}") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{what} {path} can't be read: {error}") from error


def remove_written(folder: Path, names: re.Pattern[str]) -> list[Path]:
    """Remove the files in `folder` whose whole name is one of `names`; what stays, folders too. Raises `OSError`."""
    stays = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() or not names.fullmatch(path.name):
            stays.append(path)
        else:
            path.unlink()
    return stays


def sha256_of(path: Path, skip: int = 0) -> str:
    """The digest of a file's bytes from `skip` on, hex."""
    with path.open("rb") as file:
        file.seek(skip)
        return hashlib.file_digest(file, "sha256").hexdigest()


def expanded(path: str, option: str) -> Path:
    """`path` with its `~` or `~somebody` written out. Raises `UserError` naming the option for nobody's home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{option} {path}: {in_a_line(error)}") from error
