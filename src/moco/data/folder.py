"""What a path holds: image files of a folder tree, or of archives read in place."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from moco.console import say
from moco.data.census import READ_IN_PLACE, Census
from moco.data.chunks import is_packed
from moco.data.images import SUFFIXES
from moco.data.item import Item, is_foreign
from moco.data.remote import is_remote
from moco.data.tar import scan_tar
from moco.data.zip import scan_zip
from moco.errors import UserError, printable
from moco.files import expanded

FIRST = ("train", "training")  # of two links to one folder, the one that is kept
NAMED = 3  # things named in one line


def scan(spec: str) -> list[Item]:
    """Every image file that `spec` names, sorted by name; a line counts what was left out.

    `spec` is a folder, a tar or zip, or several joined by commas. A folder without images that holds archives
    stands for those archives. Raises `UserError` if there is no such path, it can't be read, or has no image in
    it; a folder further down that can't be read is left out, with a line that says so.
    """
    items: list[Item] = []
    census = Census()
    for part in parts(spec):
        path = expanded(part, "--data")
        if is_remote(part) or is_packed(path):
            told = "pretrain, linear, evaluate and finetune read it alone; here give the images that it was packed from"
            raise UserError(f"--data {printable(part)} is a store that `moco pack` made: {told}")
        items += _scan_folder(path, census) if _is_folder(path, part) else _scan_archive(path, census)
    if not items:
        raise UserError(f"--data {printable(spec)}: no images there{_instead(census)}")
    census.report()
    items.sort(key=lambda item: item.name)
    return items


def parts(spec: str) -> list[str]:
    """The paths that `spec` joins by commas; a path that has a comma in its name is one."""
    found = [spec] if "," not in spec or os.path.lexists(spec) else spec.split(",")
    if not all(part.strip() for part in found):
        raise UserError(f"--data {printable(spec)!r}: a path is empty; give a folder, or archives joined by commas")
    return found


def anchored(spec: str) -> str:
    """`spec` with the paths in it that are here made absolute: what is stored of it is found from any folder."""
    here = [str(Path(part).absolute()) if os.path.lexists(part) else part for part in parts(spec)]
    return ",".join(here)


def shape_of(items: list[Item]) -> str:
    """Hex digest of names and sizes: files that differ here have other pictures."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(f"{item.name}\0{item.size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def fingerprint(items: list[Item]) -> str:
    """Hex digest of names, sizes, times and inodes: while it stays the same, no file was touched."""
    digest = hashlib.sha256()
    for item in items:
        line = f"{item.name}\0{item.size}\0{item.mtime_ns}\0{item.inode}\0{item.ctime_ns}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _instead(census: Census) -> str:
    """What was there instead of images, and what to do about it."""
    if census.archives:
        names = ", ".join(printable(name) for name in sorted(census.archives)[:NAMED])
        more = ", ..." * (len(census.archives) > NAMED)
        count = f"{len(census.archives)} archive{'s' * (len(census.archives) > 1)}"
        what = "give the folder that holds .tar or .zip files itself; archives inside archives must be unpacked once"
        return f", but {count} ({names}{more}): {what}"
    found = census.summary()
    return f" (looked for {' '.join(sorted(SUFFIXES))}{f'; left out {found}' if found else ''})"


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


def _scan_archive(path: Path, census: Census) -> list[Item]:
    match path.suffix.lower():
        case ".tar":
            return scan_tar(path, census)
        case ".zip":
            return scan_zip(path, census)
    what = "give a folder or an uncompressed .tar or .zip (unpack compressed archives first)"
    raise UserError(f"--data {printable(str(path))}: {what}")


def _scan_folder(root: Path, census: Census) -> list[Item]:
    found = [item for item in _walk(root, census) if census.takes(item)]
    here = [name for name in census.archives if "/" not in name and Path(name).suffix.lower() in READ_IN_PLACE]
    if found or not here:
        return found
    census.archives = [name for name in census.archives if name not in here]
    return [item for name in sorted(here) for item in _scan_archive(root / name, census)]


def _file_item(name: str, path: Path) -> Item | None:
    try:
        status = path.stat()
    except OSError:  # a dangling or looping link: kept in the list, so that packing counts and names it
        return Item(name, path, 0, 0, 0)
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for without end
        return None
    return Item(name, path, 0, status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)


def _walk(root: Path, census: Census) -> list[Item]:
    """Files below `root`, links followed, each real folder once. Raises `UserError` if `root` can't be read."""
    found: list[Item] = []
    seen: dict[str, str] = {}
    unreadable: list[OSError] = []
    for folder, folders, files in os.walk(root, followlinks=True, onerror=unreadable.append):
        inside = Path(folder).relative_to(root)
        real = os.path.realpath(folder)
        if real in seen:
            say(f"left out {printable(str(inside))}/: the same folder as {printable(seen[real])}/")
            folders.clear()
            continue
        seen[real] = str(inside)
        for name in folders:
            if is_foreign(name):
                census.leave_folder((inside / name).as_posix())
        folders[:] = sorted((f for f in folders if not is_foreign(f)), key=lambda f: (f.lower() not in FIRST, f))
        for name in files:
            item = _file_item((inside / name).as_posix(), Path(folder) / name)
            if item is not None:
                found.append(item)
    for error in unreadable:
        if error.filename == str(root):
            raise UserError(f"--data {printable(str(root))}: {error.strerror}")
        say(f"left out {printable(error.filename)}: {error.strerror}")
    return found
