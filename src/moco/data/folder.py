"""What a path holds: image files of a folder tree, or of tars read in place."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moco.data.images import SUFFIXES
from moco.errors import UserError


@dataclass(frozen=True)
class Item:
    """One image file.

    Attributes:
        name: path inside the tree, with `/`.
        container: the file itself, or the tar that holds it.
        offset: where its bytes begin in the container.
        size: how many bytes.
        mtime_ns: modification time, part of the fingerprint.
    """

    name: str
    container: Path
    offset: int
    size: int
    mtime_ns: int

    def read(self) -> bytes:
        """The file's bytes. Raises `OSError` if it can't be read."""
        with self.container.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def scan(spec: str) -> list[Item]:
    """Every image file that `spec` names, sorted by name.

    `spec` is a folder, a tar, or several joined by commas. A folder without images that holds tars stands
    for those tars. Raises `UserError` if there is no such path or no image in it.
    """
    items: list[Item] = []
    for part in spec.split(","):
        path = Path(part).expanduser()
        if path.is_dir():
            items += _scan_folder(path)
        elif path.is_file():
            items += _scan_tar(path)
        else:
            raise UserError(f"--data {part}: no such file or folder")
    if not items:
        raise UserError(f"--data {spec}: no images there (looked for {' '.join(sorted(SUFFIXES))})")
    items.sort(key=lambda item: item.name)
    return items


def fingerprint(items: list[Item]) -> str:
    """Hex digest of names, sizes and times: it changes when a file is added, removed or rewritten."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(f"{item.name}\0{item.size}\0{item.mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image (hidden files and macOS's `._` twins are not)."""
    base = name.rsplit("/", 1)[-1]
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in SUFFIXES


def _scan_folder(root: Path) -> list[Item]:
    images: list[Item] = []
    tars: list[Path] = []
    for path in _walk(root):
        name = path.relative_to(root).as_posix()
        if is_image_name(name):
            images.append(_file_item(name, path))
        elif path.suffix == ".tar" and path.parent == root:
            tars.append(path)
    if images or not tars:
        return images
    return [item for tar in sorted(tars) for item in _scan_tar(tar)]


def _file_item(name: str, path: Path) -> Item:
    try:
        status = path.stat()
    except OSError:  # a dangling link: kept in the list, so that packing counts and names it
        return Item(name, path, 0, 0, 0)
    return Item(name, path, 0, status.st_size, status.st_mtime_ns)


def _walk(root: Path) -> Iterator[Path]:
    """Files below `root`, links followed, each real folder once."""
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in files:
            yield Path(folder) / name


def _scan_tar(path: Path) -> list[Item]:
    if path.suffix != ".tar":
        raise UserError(f"--data {path}: give a folder or an uncompressed .tar (unpack compressed archives first)")
    try:
        with tarfile.open(path, "r:") as archive:
            mtime_ns = path.stat().st_mtime_ns
            return [
                Item(member.name.removeprefix("./"), path, member.offset_data, member.size, mtime_ns)
                for member in archive
                if member.isreg() and not member.issparse() and is_image_name(member.name)
            ]
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"--data {path}: not a readable tar ({' '.join(str(error).split())})") from error
