"""Whether the large files of a store still hold what was written: read again only where one was touched since.

RECORD  JSON: by file name, size, modification and change time and inode of what was found to be whole
"""

from __future__ import annotations

from pathlib import Path

from moco.console import console
from moco.errors import UserError
from moco.files import read_json, sha256_of, write_json


def check(files: dict[Path, str], record: Path, skip: int = 0) -> None:
    """Raise `ValueError` unless each of `files` has its SHA-256, hex, from byte `skip` on.

    Those that are as `record` says they were when they had it aren't read. What was read and is whole is noted there,
    where that can be written.
    """
    known = _known(record)
    now = {path: state_of(path) for path in files}
    touched = [path for path in files if known.get(path.name) != now[path]]
    if not touched:
        return
    with console.status(f"checking {record.parent}"):
        for path in touched:
            if sha256_of(path, skip) != files[path]:
                raise ValueError(f"{path.name} isn't what was written")
    note(record, {path.name: state for path, state in now.items()})


def note(record: Path, states: dict[str, list[int]]) -> None:
    """Note that files are whole, by name as `state_of` gives it. A store that may only be read stays as it is."""
    try:
        write_json(record, states)
    except UserError:  # the next start reads the files again, and finds the same
        return


def state_of(path: Path) -> list[int]:
    """Size, modification and change time and inode: the same as long as nobody touches the file."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _known(record: Path) -> dict[str, list[int]]:
    """What `record` says; nothing where there is none, or it is damaged."""
    try:
        found = read_json(record, "record")
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}
