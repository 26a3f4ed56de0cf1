"""Unpacking without trust: nothing lands outside the folder, and the tree is there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from typing import Any

from moco.console import progress
from moco.data.item import foreign_folder, is_hidden
from moco.errors import UserError
from moco.files import read_json, write_json

MANIFEST = ".moco-archive.json"  # hidden, so that no scan takes it for an image
MARKER = ".moco-unpacking"
_SYSTEMS = ("Thumbs.db", "desktop.ini")


def unpack(
    archive: Path,
    root: str,
    folder: Path,
    sha256: str,
    convert: Callable[[Path, Path], None] | None = None,
) -> None:
    """Unpack the folder `root` of `archive` as `folder`, with a manifest inside that says it is whole.

    `convert(unpacked, made)` may turn the unpacked tree into another one, which then becomes `folder`.
    Everything happens in a hidden sibling with a marker in it, renamed at the end. One call at a time for each
    `folder`: a marked sibling, left by a killed process, is removed. Raises `UserError` for an archive that is
    damaged, lacks `root` or holds an unsafe member, and where the disk is full, or `folder` or an unmarked sibling
    is in the way.
    """
    if folder.exists():
        raise UserError(f"{folder} is in the way: move it, or choose another folder with --to")
    temporary = folder.with_name(f".{folder.name}.unpacking")
    _sweep(temporary)
    try:
        unpacked = temporary / "unpacked"
        temporary.mkdir(parents=True)
        (temporary / MARKER).touch()
        unpacked.mkdir()
        _extract(archive, unpacked)
        tree = unpacked / root
        if not tree.is_dir():
            raise UserError(f"{archive}: there is no folder {root} in it")
        if convert is not None:
            convert(tree, temporary / "made")
            tree = temporary / "made"
        manifest = {"archive": archive.name, "sha256": sha256, **_summary(tree)}
        write_json(tree / MANIFEST, manifest)
        tree.rename(folder)
    except OSError as error:
        raise UserError(f"can't unpack {archive} to {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sweep(temporary: Path) -> None:
    """Remove what a killed call left. Raises `UserError` for a folder that may be anybody's."""
    if not os.path.lexists(temporary):
        return
    try:
        if (temporary / MARKER).is_file():
            for inside in [path for path in temporary.iterdir() if path.is_dir()]:
                shutil.rmtree(inside)  # before the marker: a kill in between must not leave a folder without one
            shutil.rmtree(temporary)
        else:
            temporary.rmdir()  # killed before the marker was there: empty
    except OSError as error:
        raise UserError(f"{temporary} is in the way: move it, or choose another folder with --to") from error


def is_whole(folder: Path, sha256: str) -> bool:
    """Whether `folder` is the complete tree of the archive with this checksum; False if nothing is there.

    Raises `UserError` if something else is there, or files of it are missing.
    """
    if not folder.exists():
        return False
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{folder} was not made by `moco download`: move it, or choose another folder with --to")
    manifest = read_json(folder / MANIFEST, "manifest")
    found = _summary(folder)
    if manifest.get("sha256") != sha256:
        raise UserError(f"{folder} comes from another archive: delete it and run `moco download` again")
    if any(manifest[name] != value for name, value in found.items() if name in manifest):  # older ones only count
        other = f"{found['files']} files instead of {manifest.get('files')}"
        what = other if found["files"] != manifest.get("files") else "files of other names or sizes"
        raise UserError(f"{folder} has {what}: delete it and run `moco download` again (the archive is kept)")
    return True


def refusal(member: tarfile.TarInfo) -> str | None:
    """Why `member` must not be unpacked, or None if it may.

    Symbolic links are refused one and all: image sets need none, and without them a path means what it says.
    """
    if _escapes(member.name):
        return "its path leads outside the folder"
    if member.issym():
        return "it is a symbolic link"
    if member.islnk() and _escapes(member.linkname):
        return "it is a link to a file outside the folder"
    if not (member.isreg() or member.isdir() or member.islnk()):
        return "it is a device or another special file"
    return None


def _escapes(path: str) -> bool:
    windows = PureWindowsPath(path)
    absolute = posixpath.isabs(path) or bool(windows.drive or windows.root)
    return absolute or ".." in path.split("/") or ".." in windows.parts


def _extract(archive: Path, folder: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise UserError("unpacking safely needs Python 3.11.4 or newer")
    total = archive.stat().st_size
    with archive.open("rb") as file, progress(f"unpacking {archive.name}", total, "bytes") as bar:
        try:
            with tarfile.open(fileobj=file, mode="r:*") as tar:
                for member in tar:
                    reason = refusal(member)
                    if reason is not None:
                        raise UserError(f"{archive}: refused member {member.name!r}: {reason}")
                    tar.extract(member, folder, filter="data")
                    bar.update(file.tell())
        except tarfile.FilterError as error:
            raise UserError(f"{archive}: refused member {error.tarinfo.name!r}: {error}") from error
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise UserError(f"{archive} is damaged: {' '.join(str(error).split())}") from error


def _summary(folder: Path) -> dict[str, Any]:
    """How many files a tree has, and a digest of their names and sizes; what systems leave everywhere isn't counted."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    kept = [name for name in names if not (is_hidden(name) or foreign_folder(name) or name.endswith(_SYSTEMS))]
    sizes = [(name, (folder / name).stat().st_size) for name in kept]
    digest = hashlib.sha256(json.dumps(sizes).encode()).hexdigest()
    return {"files": len(sizes), "listing": digest}
