"""Removing stores file by file: what a store is made of goes, anything else that lies there stays."""

from __future__ import annotations

import re
from pathlib import Path

from moco.files import remove_written

MARKER = ".moco-store.json"
TEMPORARY = r"\..*\.tmp"
_TABLES = rf"(pixels|jpegs|offsets|lengths|sizes|contents|labels)\.npy|(manifest|checked)\.json|{TEMPORARY}"
_NOTHING = re.compile(r"(?!)")
# Everything that a store is made of, by folder: nothing else is ever removed.
_WRITTEN = {
    "images": re.compile(_TABLES),
    "splits": re.compile(rf"[0-9a-f]{{20}}\.(npy|json)|{TEMPORARY}"),
    "train": re.compile(_TABLES),  # an earlier format
    "val": re.compile(_TABLES),
}


def remove_store(folder: Path, beside: re.Pattern[str] = _NOTHING) -> list[str]:
    """Remove a store of ours file by file, with those at its top that `beside` names, and the folder if it is empty.

    Returns what isn't a store's, by its path inside: the marker stays with it. Raises `OSError`.
    """
    foreign = []
    for inside in remove_written(folder, beside):
        form = _WRITTEN.get(inside.name)
        if form is None or inside.is_symlink() or not inside.is_dir():
            foreign += [inside.name] if inside.name != MARKER else []
        elif left := remove_written(inside, form):
            foreign += [f"{inside.name}/{path.name}" for path in left]
        else:
            inside.rmdir()
    if not foreign:
        (folder / MARKER).unlink()  # last: a kill in between must not leave a folder without it
        folder.rmdir()
    return foreign
