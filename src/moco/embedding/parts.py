"""A feature file that is being made: finished parts in a folder beside it, so that a kill costs one part.

NAME.parts/.moco-embed.json  what the parts are made of: nothing is trusted or removed without it
NAME.parts/000012.npz        one part: rows, features, what was left out; there whole or not at all
NAME.parts/merged.json       SHA-256 of the finished files, just before they take their names
"""

from __future__ import annotations

import contextlib
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.console import say
from moco.embedding.table import companion
from moco.errors import UserError, in_a_line
from moco.files import atomic, locked, read_json, remove_written, sha256_of, write_json

MARKER = ".moco-embed.json"
_MERGED = "merged.json"
# Everything that such a folder holds: nothing else is ever removed.
_WRITTEN = re.compile(
    r"\.lock|\d{6}\.npz|merged-\d+|merged\.json"
    r"|\.(\d{6}\.npz|\.moco-embed\.json|merged\.json)\.\d+\.tmp"
)


@dataclass(frozen=True)
class Part:
    """The features of a stretch of images.

    Attributes:
        rows: int64 (n,), numbers of its readable images.
        features: float32 (n, F).
        left_out: (number, reason) of the others.
        contents: hex digest of the files' bytes.
        ranges: of each kind of more than 8 bits that was met, what became black and white.
    """

    rows: NDArray[np.int64]
    features: NDArray[np.float32]
    left_out: list[tuple[int, str]]
    contents: str
    ranges: dict[str, dict[str, Any]]


class Parts:
    """The folder of parts beside the file that they will become, held for this process by `opened`."""

    def __init__(self, out: Path, work: dict[str, Any]) -> None:
        self.out, self.work = out, work
        self.folder = folder_of(out)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, out: Path, work: dict[str, Any]) -> Iterator[Parts]:
        """The parts of `out`; `work` is all that decides what is in them, as JSON holds it.

        Raises `UserError` where `out` is there already, where the folder is somebody else's or of other work, and where
        another process is at it.
        """
        parts = cls(out, work)
        if not parts.folder.exists():
            parts._begin()
        if not (parts.folder / MARKER).is_file():
            raise UserError(f"{parts.folder} is there and not the begun work of `moco embed`: give another --out")
        with locked(parts.folder / ".lock", f"another process is embedding into {out}"):
            parts._check()
            yield parts

    def _begin(self) -> None:
        for path in _files(self.out):
            if path.exists():
                raise UserError(f"{path} is there already: remove it, or give another --out")
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            fresh = self.out.with_name(f".{self.folder.name}.tmp")
            if fresh.is_dir() and _foreign(fresh):
                raise UserError(f"{fresh} is there and not left by `moco embed`: move it away")
            fresh.mkdir(exist_ok=True)
            write_json(fresh / MARKER, {"format": 1, "work": self.work})
            fresh.rename(self.folder)
        except OSError as error:
            raise UserError(f"can't make {self.folder}: {in_a_line(error)}") from error

    def _check(self) -> None:
        """Raise `UserError` unless the parts that are there are of the same work."""
        begun = read_json(self.folder / MARKER, "marker")["work"]
        if begun != json.loads(json.dumps(self.work)):
            other = [name for name in self.work if begun.get(name) != self.work[name]]
            told = f"the work begun in {self.folder} is of another {', '.join(other) or 'version'}"
            raise UserError(f"{told}: remove that folder to begin again, or give another --out")

    def read(self, number: int) -> Part | None:
        """Part `number`; None where it isn't there, or damaged: a line says so."""
        path = self._path(number)
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as found:
                about = json.loads(str(found["about"]))
                left_out = [(int(n), str(reason)) for n, reason in about["left_out"]]
                return Part(found["rows"], found["features"], left_out, about["contents"], about["ranges"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            say(f"{path} is damaged ({in_a_line(error)}): made again")
            return None

    def write(self, number: int, part: Part) -> None:
        """Keep part `number`, whole or not at all."""
        about = {"left_out": part.left_out, "contents": part.contents, "ranges": part.ranges}
        with atomic(self._path(number)) as file:
            np.savez(file, rows=part.rows, features=part.features, about=np.array(json.dumps(about)))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"

    @property
    def merged(self) -> bool:
        """Whether the finished file has its name already: a kill came before the parts were removed.

        Raises `UserError` as `check_free` does.
        """
        self.check_free()
        return all(path.exists() for path in _files(self.out))

    def check_free(self) -> None:
        """Raise `UserError` where there is another file of the finished file's name, not made of these parts."""
        record = self.folder / _MERGED
        known = read_json(record, "record") if record.is_file() else {}
        for path in _files(self.out):
            if path.exists() and known.get(path.name) != sha256_of(path):
                raise UserError(f"{path} is there already and not from the work in {self.folder}: move it away")

    @contextlib.contextmanager
    def merging(self) -> Iterator[list[Path]]:
        """The paths to write the finished file, and its companion, to; they take their names at the end.

        A file that came to be there meanwhile is not replaced: `UserError`.
        """
        drafts = [self.folder / f"merged-{number}" for number in range(len(_files(self.out)))]
        yield drafts
        write_json(self.folder / _MERGED, {p.name: sha256_of(d) for p, d in zip(_files(self.out), drafts)})
        self.check_free()
        for path, draft in reversed([*zip(_files(self.out), drafts)]):  # the companion first
            draft.replace(path)

    def discard(self) -> None:
        """Remove the folder: it has this program's marker, which goes last.

        It gets another name first: whoever looks sees all of it or none, and what a kill leaves under that name is
        removed by the next work of this name. Files in it that aren't this program's stay, and a line says so.
        """
        gone = self.out.with_name(f".{self.folder.name}.done")
        if gone.is_dir():
            _remove(gone)
        if gone.exists() or _foreign(self.folder):
            gone = self.folder
        else:
            self.folder.rename(gone)
        _remove(gone)


def _foreign(folder: Path) -> list[Path]:
    """What of `folder` isn't of a begun work."""
    return [
        path
        for path in folder.iterdir()
        if path.name != MARKER and (path.is_dir() or not _WRITTEN.fullmatch(path.name))
    ]


def _remove(gone: Path) -> None:
    """Remove what is left of a finished work's folder, file by file; only with its marker, or empty."""
    if any(gone.iterdir()) and not (gone / MARKER).is_file():
        raise UserError(f"{gone} is there and not left by `moco embed`: move it away")
    foreign = [path for path in remove_written(gone, _WRITTEN) if path.name != MARKER]
    (gone / MARKER).unlink(missing_ok=True)
    if foreign:
        say(f"{gone} stays: {foreign[0].name} isn't moco's")
    else:
        gone.rmdir()


def folder_of(out: Path) -> Path:
    """Where the parts of `out` are kept."""
    return out.with_name(f"{out.name}.parts")


def _files(out: Path) -> list[Path]:
    beside = companion(out)
    return [out] if beside is None else [out, beside]
