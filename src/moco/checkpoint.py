"""Checkpoints: there whole or not at all, verified when read, the last few and the best kept."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from moco.console import say
from moco.errors import UserError
from moco.files import atomic, sync_folder

FORMAT = 1
LAST, BEST = "last.pt", "best.pt"


def save(folder: Path, content: dict[str, Any], step: int, keep: int, best: bool) -> Path:
    """Write `step-N.pt`, point `last.pt` (and `best.pt`) at it, remove all but the last `keep`.

    Raises `UserError` if the disk is full or read-only; the earlier checkpoints are untouched then.
    """
    for left in folder.glob(".*.tmp"):  # of a run that was killed while it wrote
        left.unlink(missing_ok=True)
    path = folder / f"step-{step:08d}.pt"
    whole = io.BytesIO()  # torch turns a full disk into an error of its own; a plain write doesn't
    torch.save({"format": FORMAT, "step": step, **content}, whole)
    with atomic(path) as file:
        file.write(whole.getbuffer())
    _point(path, folder / LAST)
    if best:
        _point(path, folder / BEST)
    for old in numbered(folder)[keep:]:
        old.unlink(missing_ok=True)
    sync_folder(folder)
    return path


def numbered(folder: Path) -> list[Path]:
    """The `step-N.pt` files, newest first."""
    return sorted(folder.glob("step-*.pt"), reverse=True)


def load(path: Path) -> dict[str, Any]:
    """Read one checkpoint onto the CPU, running no code from it. Raises `UserError` if it is damaged."""
    return read_verified(path, "checkpoint", FORMAT)


def read_verified(path: Path, what: str, version: int) -> dict[str, Any]:
    """Read what `torch.save` wrote as a dictionary with its `format`, its checksums verified, running no code from it.

    `what` names the file's role. Raises `UserError` if it is missing, damaged, or of another format.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch stores a CRC-32 with every record
        if damaged is not None:
            raise UserError(f"{what} {path} is damaged (checksum of {damaged})")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no {what} at {path}") from None
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(f"{what} {path} is damaged: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict) or content.get("format") != version:
        raise UserError(f"{path} is not a {what} that this version of moco reads")
    return content


def load_last(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole; a damaged one is named and passed over. None if there is none."""
    for path in numbered(folder):
        try:
            return load(path)
        except UserError as error:
            say(f"{error}; taking the one before it")
    return None


def load_for_evaluation(folder: Path, which: str) -> dict[str, Any]:
    """The `last` or `best` checkpoint of a run. Raises `UserError` if there is none."""
    if which == "last":
        content = load_last(folder)
        if content is None:
            raise UserError(f"no checkpoint in {folder}: has the pre-training saved one yet?")
        return content
    return load(folder / BEST)


def _point(target: Path, name: Path) -> None:
    """Make `name` a second name of `target`, atomically: a hard link, or a copy where links aren't possible."""
    temporary = name.with_name(f".{name.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(target, temporary)
    except OSError:  # a file system without hard links
        shutil.copyfile(target, temporary)
    temporary.replace(name)
