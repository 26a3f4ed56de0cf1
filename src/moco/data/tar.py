"""The images of a tar, read in place: nothing is ever unpacked, so nothing can land anywhere."""

from __future__ import annotations

import posixpath
import tarfile
from dataclasses import replace
from pathlib import Path

from moco.data.census import Census
from moco.data.item import Item, ending
from moco.errors import UserError, printable

MOST_CLASS_BYTES = 200  # of a WebDataset's `.cls`: a number, or a word


def scan_tar(path: Path, census: Census) -> list[Item]:
    """The image files in the uncompressed tar at `path`; of members with the same name the last, as tar does.

    A link counts as the file that it names; one that names nothing in the tar stays in the list, without
    bytes, so that packing counts it. In a WebDataset shard, where beside every `KEY.jpg` there is a `KEY.cls` with its
    class, an image is called `CLASS/KEY.jpg`. Raises `UserError` if `path` is no readable tar.
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
    classes: list[Item] = []
    for name, member in members.items():
        if not (member.isreg() or member.issym() or member.islnk()):
            continue
        target = _target(name, member, members)
        where = (0, 0) if target is None else (target.offset_data, target.size)
        item = Item(name, path, *where, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)
        if ending(name) == ".cls":
            classes.append(item)
        elif census.takes(item):
            items.append(item)
    labelled = _by_class(items, members, path)
    if labelled is items:
        for item in classes:
            census.takes(item)  # nobody's class: left out, and counted
    return labelled


def _by_class(items: list[Item], members: dict[str, tarfile.TarInfo], path: Path) -> list[Item]:
    """The items with their class as a folder, where each has one beside it; else as they are."""
    beside = [members.get(f"{_key(item.name)}.cls") for item in items]
    if not items or any(member is None or not member.isreg() or member.size > MOST_CLASS_BYTES for member in beside):
        return items
    made = []
    with path.open("rb") as file:
        for item, member in zip(items, beside):
            assert member is not None
            file.seek(member.offset_data)
            label = clean(file.read(member.size).decode("utf-8", "replace").strip())
            if not label or "/" in label:
                return items
            folder, _, base = item.name.rpartition("/")
            made.append(replace(item, name="/".join(filter(None, (folder, label, base)))))
    return made


def _key(name: str) -> str:
    """What the files of one WebDataset sample share: the path up to the first dot of its last part."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.split(".", 1)[0]


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
