"""Removing stores file by file: what a store is made of goes, anything else that lies there stays."""

from __future__ import annotations

import re
from pathlib import Path

MARKER = ".moco-store.json"
_TABLES = r"(pixels|jpegs|offsets|lengths|sizes|contents|labels)\.npy|manifest\.json|checked\.json"
# Everything that a store is made of, by folder: nothing else is ever removed.
_WRITTEN = {
    "images": re.compile(_TABLES),
    "splits": re.compile(r"[0-9a-f]{20}\.(npy|json)"),
    "train": re.compile(_TABLES),  # an earlier format
    "val": re.compile(_TABLES),
}


def remove_files(folder: Path, beside: re.Pattern[str] | None = None) -> list[str]:
    """Remove the files that a store in `folder` has, and those at its top that `beside` names; the marker stays.

    Returns what isn't a store's, by its path inside. Raises `OSError`.
    """
    foreign = []
    for inside in sorted(folder.iterdir()):
        if inside.name == MARKER or (beside is not None and _removed(inside, beside)):
            continue
        form = _WRITTEN.get(inside.name)
        if form is None or inside.is_symlink() or not inside.is_dir():
            foreign.append(inside.name)
            continue
        left = [entry for entry in inside.iterdir() if not _removed(entry, form)]
        foreign += [f"{inside.name}/{entry.name}" for entry in left]
        if not left:
            inside.rmdir()
    return foreign


def _removed(entry: Path, form: re.Pattern[str]) -> bool:
    """Whether it was a file of the store, which is removed then."""
    temporary = entry.name.startswith(".") and entry.name.endswith(".tmp")
    if entry.is_dir() or not (form.fullmatch(entry.name) or temporary):
        return False
    entry.unlink()
    return True
