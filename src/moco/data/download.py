"""One verified file from the web, there whole under its name or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from moco.console import console, say
from moco.data.catalog import Archive
from moco.data.transfer import CHUNK_BYTES, Patience, size_bytes, transfer
from moco.errors import UserError
from moco.files import locked


def fetch(archive: Archive, folder: Path, patience: Patience | None = None) -> Path:
    """Download `archive` into `folder`, which exists, unless it is there already; return the verified file.

    Size and checksums are compared on every path, also for a file that was there before: a damaged one is set
    aside and downloaded again. What arrived of a broken download stays as `<name>.moco-part` and is continued.
    Raises `UserError` for a wrong checksum (the file is removed), an address that doesn't answer, no network,
    and a full disk.
    """
    path = folder / archive.filename
    if path.exists():
        problem = mismatch(path, archive)
        if problem is None:
            return path
        say(f"{path} is damaged ({problem}): downloading it again; the old one is now {_set_aside(path)}")
    part = folder / f"{archive.filename}.moco-part"  # browsers have `.part`
    if size_bytes(part) > archive.size_bytes:
        part.unlink()
    _require_space(folder, archive.size_bytes - size_bytes(part))
    transfer(archive, part, patience or Patience())
    problem = mismatch(part, archive)
    if problem is not None:
        part.unlink()
        raise UserError(f"{archive.url}: {problem}; the bad file was removed, run the command again")
    part.replace(path)
    return path


def mismatch(path: Path, archive: Archive) -> str | None:
    """What is wrong with the file at `path`, or None if size, MD5 and SHA-256 are right.

    Raises `UserError` where it can't be read: that is no damage.
    """
    found_bytes = size_bytes(path)
    if found_bytes != archive.size_bytes:
        return f"{found_bytes} bytes instead of {archive.size_bytes}"
    digests = {"md5": hashlib.md5(usedforsecurity=False), "sha256": hashlib.sha256()}
    try:
        with path.open("rb") as file, console.status(f"verifying {archive.filename}"):
            while chunk := file.read(CHUNK_BYTES):
                for digest in digests.values():
                    digest.update(chunk)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    for name, digest in digests.items():
        expected = getattr(archive, name)
        if digest.hexdigest() != expected:
            return f"its {name} is {digest.hexdigest()} instead of {expected}"
    return None


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold `folder` for one download at a time; a second one waits. Made if missing.

    The lock ends with the process, however it ends. Raises `UserError` where the folder can't be written.
    """
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            busy = f"another download into {folder} is running, waiting for it"
            held.enter_context(locked(folder / ".moco-download.lock", busy, say))
        except (OSError, UserError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"can't write to {folder}: {reason} (choose another folder with --to)") from error
        yield


def _set_aside(path: Path) -> Path:
    """Give a file a name that nothing has: it may be somebody's own, so it isn't removed."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return path.rename(aside)


def _require_space(folder: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise UserError(
            f"{folder} has {free_bytes / 1e6:.1f} MB free, the download needs {needed_bytes / 1e6:.1f} MB: "
            "free some space or choose another folder with --to"
        )
