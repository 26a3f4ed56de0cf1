"""What a path holds: image files of a folder tree, or of tars read in place."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from moco.console import say
from moco.data.images import SUFFIXES
from moco.data.item import Item, is_image_name, printable
from moco.data.tar import scan_tar
from moco.errors import UserError

__all__ = ["Item", "fingerprint", "is_image_name", "printable", "scan"]


def scan(spec: str) -> list[Item]:
    """Every image file that `spec` names, sorted by name.

    `spec` is a folder, a tar, or several joined by commas. A folder without images that holds tars stands
    for those tars. Raises `UserError` if there is no such path, it can't be read, or has no image in it; a
    folder further down that can't be read is left out, with a line that says so.
    """
    items: list[Item] = []
    for part in parts(spec):
        path = _expanded(part)
        items += _scan_folder(path) if _is_folder(path, part) else scan_tar(path)
    if not items:
        looked_for = " ".join(sorted(SUFFIXES))
        raise UserError(f"--data {printable(spec)}: no images there (looked for {looked_for})")
    items.sort(key=lambda item: item.name)
    return items


def parts(spec: str) -> list[str]:
    """The paths that `spec` joins by commas; a path that has a comma in its name is one."""
    found = [spec] if "," not in spec or os.path.lexists(spec) else spec.split(",")
    if not all(part.strip() for part in found):
        raise UserError(f"--data {printable(spec)!r}: a path is empty; give a folder, or tars joined by commas")
    return found


def fingerprint(items: list[Item]) -> str:
    """Hex digest of names, sizes and times: it changes when a file is added, removed or rewritten."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(f"{item.name}\0{item.size}\0{item.mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _expanded(part: str) -> Path:
    try:
        return Path(part).expanduser()
    except RuntimeError as error:  # ~somebody who doesn't exist
        raise UserError(f"--data {printable(part)}: {error}") from error


def _is_folder(path: Path, part: str) -> bool:
    """Whether it is a folder; False for a file. Raises `UserError` if it is neither."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise UserError(f"--data {printable(part)}: no such file or folder") from None
    except (OSError, ValueError) as error:
        raise UserError(f"--data {printable(part)}: {getattr(error, 'strerror', None) or error}") from error
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise UserError(f"--data {printable(part)}: neither a file nor a folder")
    return stat.S_ISDIR(mode)


def _scan_folder(root: Path) -> list[Item]:
    images: list[Item] = []
    tars: list[Path] = []
    for path in _walk(root):
        name = path.relative_to(root).as_posix()
        if is_image_name(name):
            images += _file_item(name, path)
        elif path.parent == root and path.suffix.lower() == ".tar" and not path.name.startswith("."):
            tars.append(path)
    if images or not tars:
        return images
    return [item for tar in sorted(tars) for item in scan_tar(tar)]


def _file_item(name: str, path: Path) -> list[Item]:
    try:
        status = path.stat()
    except OSError:  # a dangling or looping link: kept in the list, so that packing counts and names it
        return [Item(name, path, 0, 0, 0)]
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for without end
        return []
    return [Item(name, path, 0, status.st_size, status.st_mtime_ns)]


def _walk(root: Path) -> Iterator[Path]:
    """Files below `root`, links followed, each real folder once. Raises `UserError` if `root` can't be read."""
    seen: set[str] = set()
    unreadable: list[OSError] = []
    for folder, folders, files in os.walk(root, followlinks=True, onerror=unreadable.append):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in files:
            yield Path(folder) / name
    for error in unreadable:
        if error.filename == str(root):
            raise UserError(f"--data {printable(str(root))}: {error.strerror}")
        say(f"left out {printable(error.filename)}: {error.strerror}")
