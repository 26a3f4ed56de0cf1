"""One image file, wherever its bytes are, and what a file's name says about it."""

from __future__ import annotations

import errno
import hashlib
import mimetypes
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from moco.data.images import SUFFIXES, BadImage

MOST_BYTES = 2**29  # as many as 8-bit RGB needs for the most pixels that Pillow doesn't take for a bomb
DIGEST_BYTES = 16

# Folders that other programs put beside pictures, in lower case; those that begin with a dot are hidden anyway.
_THUMBNAILS = frozenset({"@eadir", "__macosx", "#recycle", "$recycle.bin", "system volume information"})
_TYPES = mimetypes.MimeTypes(())  # Python's own table: the system's differs between machines


@dataclass(frozen=True)
class Item:
    """One image file.

    Attributes:
        name: path inside the tree, with `/`.
        container: the file itself, or the archive that holds it.
        offset: where its bytes begin in the container.
        size: how many bytes.
        mtime_ns, inode, ctime_ns: of the container, as `stat` has them: they tell whether it was touched.
    """

    name: str
    container: Path
    offset: int
    size: int
    mtime_ns: int
    inode: int = 0
    ctime_ns: int = 0

    def read(self, most: int | None = None) -> bytes:
        """The file's bytes, or its first `most`.

        Raises `OSError` if it can't be read, `BadImage` if it is larger than `MOST_BYTES`: no picture is, and one
        such file would take the memory from all others.
        """
        count = self.size if most is None else min(self.size, most)
        if count > MOST_BYTES:
            raise BadImage(f"{self.size / 2**30:,.1f} GiB, more than any picture ({MOST_BYTES / 2**30:g} GiB)")
        with self.container.open("rb") as file:
            file.seek(self.offset)
            try:
                return file.read(count)
            except MemoryError:
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None


def content_digest(content: bytes) -> bytes:
    """What two files' bytes are compared by, `DIGEST_BYTES` long."""
    return hashlib.sha256(content).digest()[:DIGEST_BYTES]


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image: nothing hidden, in no hidden folder, no `._` twin."""
    return not foreign_folder(name) and not is_hidden(name) and ending(name) in SUFFIXES


def says_nothing(name: str) -> bool:
    """Whether the ending leaves open what the file is, or calls it an image of a kind that isn't read."""
    kind, packing = _TYPES.guess_type(f"x{ending(name)}")
    return packing is None and (kind is None or kind.startswith("image/"))


def ending(name: str) -> str:
    """The name's ending in lower case, `.jpg`; "" where it has none."""
    base = name.rsplit("/", 1)[-1]
    dot = base.rfind(".")
    return base[dot:].lower() if 0 < dot < len(base) - 1 else ""


def is_hidden(name: str) -> bool:
    """Whether the file itself is hidden: `.jpg`, `._a.jpg`."""
    return name.rsplit("/", 1)[-1].startswith(".")


def foreign_folder(name: str) -> str:
    """The outermost folder on the way to `name` that is hidden or made by another program; "" if there is none."""
    return _foreign_in(name.rpartition("/")[0])


@lru_cache(maxsize=1024)  # neighbours are asked for one after the other, a million of them
def _foreign_in(folder: str) -> str:
    parts = folder.split("/")
    for depth, part in enumerate(parts, 1):
        if is_foreign(part):
            return "/".join(parts[:depth])
    return ""


def is_foreign(folder: str) -> bool:
    """Whether a folder of this name is hidden, or holds another program's thumbnails or rubbish."""
    return folder.startswith(".") or folder.lower() in _THUMBNAILS
