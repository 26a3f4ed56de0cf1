"""One image file, wherever its bytes are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from moco.data.images import SUFFIXES


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


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image: nothing hidden, in no hidden folder, no `._` twin."""
    hidden = any(part.startswith(".") for part in name.split("/"))
    return not hidden and PurePosixPath(name).suffix.lower() in SUFFIXES


def printable(name: str) -> str:
    """`name` on one line of a terminal: line breaks, control characters and undecodable bytes escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)
