"""The images of a tar, read in place: nothing is ever unpacked, so nothing can land anywhere."""

from __future__ import annotations

import posixpath
import tarfile
from pathlib import Path

from moco.data.item import Item, is_image_name, printable
from moco.errors import UserError


def scan_tar(path: Path) -> list[Item]:
    """The image files in the uncompressed tar at `path`; of members with the same name the last, as tar does.

    A link counts as the file that it names; one that names nothing in the tar stays in the list, without
    bytes, so that packing counts it. Raises `UserError` if `path` is no readable tar.
    """
    if path.suffix.lower() != ".tar":
        what = "give a folder or an uncompressed .tar (unpack compressed archives first)"
        raise UserError(f"--data {printable(str(path))}: {what}")
    try:
        with tarfile.open(path, "r:") as archive:
            members = {_clean(member.name): member for member in archive}
            _check_end(path, archive.offset)
        mtime_ns = path.stat().st_mtime_ns
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        reason = printable(" ".join(str(error).split()))
        raise UserError(f"--data {printable(str(path))}: not a readable tar ({reason})") from error
    items: list[Item] = []
    for name, member in members.items():
        if not is_image_name(name) or not (member.isreg() or member.issym() or member.islnk()):
            continue
        target = _target(name, member, members)
        where = (0, 0) if target is None else (target.offset_data, target.size)
        items.append(Item(name, path, *where, mtime_ns))
    return items


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


def _clean(name: str) -> str:
    """A member's path without `.`, `..` and leading `/`: it is only ever a name, never a place to write to."""
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))
