"""What a listing takes for images, and the count of what it leaves out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

from moco.console import say
from moco.data.images import SUFFIXES, BadImage, looks_like_an_image
from moco.data.item import Item, ending, foreign_folder, is_hidden, says_nothing
from moco.errors import printable

READ_IN_PLACE = frozenset({".tar", ".zip"})
ARCHIVES = READ_IN_PLACE | {".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"}
HEAD_BYTES = 64  # enough to tell what a file is
SHOWN = 8  # kinds named in the line


class Census:
    """Decides file by file, and remembers what was left out and why.

    Attributes:
        files: how many were left out, by ending or another word for the kind.
        folders: the folders left out whole, by their own name.
        archives: names of the archives that were met and not opened.
    """

    def __init__(self) -> None:
        self.files: Counter[str] = Counter()
        self.folders: dict[str, set[str]] = {}
        self.archives: list[str] = []

    def takes(self, item: Item) -> bool:
        """Whether `item` is an image: by its ending, or by its first bytes where the ending says nothing."""
        folder = foreign_folder(item.name)
        if folder:
            self.leave_folder(folder)
            return False
        kind = ending(item.name)
        if is_hidden(item.name):
            self.files["hidden"] += 1
            return False
        if kind in SUFFIXES:
            return True
        if kind in ARCHIVES:
            self.archives.append(item.name)
            return False
        if says_nothing(item.name) and _looks_like_one(item):
            return True
        self.files[kind or "no ending"] += 1
        return False

    def leave_folder(self, path: str) -> None:
        """Count the folder at `path` as left out whole."""
        self.folders.setdefault(PurePosixPath(path).name, set()).add(path)

    def summary(self) -> str:
        """`40 files (.heic 30, .txt 10), 2 folders (@eaDir 2)`; "" where nothing was left out."""
        files = self.files + Counter(ending(name) for name in self.archives)
        folders = Counter({name: len(paths) for name, paths in self.folders.items()})
        counts = (("file", files), ("folder", folders))
        return ", ".join(_counted(noun, kinds) for noun, kinds in counts if kinds)

    def report(self) -> None:
        """One line of the log about what was left out, if anything was."""
        summary = self.summary()
        if summary:
            say(f"left out: {summary}")


def _counted(noun: str, kinds: Counter[str]) -> str:
    count = kinds.total()
    shown = [f"{printable(kind)} {number}" for kind, number in _ranked(kinds.items())[:SHOWN]]
    return f"{count} {noun}{'s' * (count != 1)} ({', '.join(shown)}{', ...' * (len(kinds) > SHOWN)})"


def _ranked(counts: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    return sorted(counts, key=lambda pair: (-pair[1], pair[0]))


def _looks_like_one(item: Item) -> bool:
    try:
        return looks_like_an_image(item.read(HEAD_BYTES))
    except (OSError, BadImage):  # unreadable, and nothing says that it is an image: counted by its ending
        return False
