"""The images of a tar, read in place: nothing is ever unpacked, so nothing can land anywhere."""

from __future__ import annotations

import posixpath
import tarfile
from pathlib import Path

from moco.data.census import Census
from moco.data.item import Item, printable
from moco.errors import UserError


def scan_tar(path: Path, census: Census) -> list[Item]:
    """The image files in the uncompressed tar at `path`; of members with the same name the last, as tar does.

    A link counts as the file that it names; one that names nothing in the tar stays in the list, without
    bytes, so that packing counts it. Raises `UserError` if `path` is no readable tar.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            members = {clean(member.name): member for member in archive}
            _check_end(path, archive.offset)
        status = path.stat()
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        reason = printable(" ".join(str(error).split()))
        raise UserError(f"--data {printable(str(path))}: not a readable tar ({reason})") from error
    items: list[Item] = []
    for name, member in members.items():
        if not (member.isreg() or member.issym() or member.islnk()):
            continue
        target = _target(name, member, members)
        where = (0, 0) if target is None else (target.offset_data, target.size)
        item = Item(name, path, *where, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)
        if census.takes(item):
            items.append(item)
    return items


def clean(name: str) -> str:
    """A member's path without `.`, `..` and leading `/`: it is only ever a name, never a place to write to."""
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))


def _target(name: str, member: tarfile.TarInfo, members: dict[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """The regular file that `member` is or, over any number of links, stands for; None if there is none."""
    followed = 0
    while not member.isreg():
        base = posixpath.dirname(name) if member.issym() else ""
        name = posixpath.normpath(posixpath.join(base, member.linkname))
        followed += 1
        if name not in members or followed > 40:
            return None
        member = members[name]
    return None if member.issparse() else member


def _check_end(path: Path, offset: int) -> None:
    """Raise `tarfile.ReadError` unless the tar ends at `offset`: tarfile itself takes a damaged header for the end."""
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0") or 0 < len(block) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"damaged header at byte {offset}")
