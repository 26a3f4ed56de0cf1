"""One image file, wherever its bytes are."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from moco.data.images import SUFFIXES, BadImage

MOST_BYTES = 2**29  # as many as 8-bit RGB needs for the most pixels that Pillow doesn't take for a bomb


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


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image: nothing hidden, in no hidden folder, no `._` twin."""
    hidden = any(part.startswith(".") for part in name.split("/"))
    return not hidden and PurePosixPath(name).suffix.lower() in SUFFIXES


def printable(name: str) -> str:
    """`name` on one line of a terminal: line breaks, control characters and undecodable bytes escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)
