"""Checkpoints: there whole or not at all, verified when read, the last few and the best kept."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import torch

from moco.console import say
from moco.errors import Damaged, UserError, in_a_line, says_damage
from moco.files import atomic, sync_folder

FORMAT = 1
LAST, BEST = "last.pt", "best.pt"


class Content(TypedDict):
    """What a checkpoint holds; `format`, the number of this layout, is added in the file.

    Keys:
        step: steps done.
        model: every tensor of both encoders, the queue and its pointer.
        optimizer: its state dict.
        state: `step`, `seconds` and `sums` of the epoch under way, `rows` of metrics, `best` and `best_epoch`.
        config: the run's configuration, as `config.yaml` holds it.
        about: versions, hardware, precision, data fingerprints, as `environment.json` holds them.
    """

    step: int
    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    state: dict[str, Any]
    config: dict[str, Any]
    about: dict[str, Any]


def save(folder: Path, content: Content, keep: int, best: bool, keep_epoch: int | None = None) -> Path:
    """Write `step-N.pt`, point `last.pt` (and `best.pt`) at it, remove all before the last `keep` up to it.

    With `keep_epoch` it stays for good too, as `epoch-N.pt`. Raises `UserError` if the disk is full or read-only; the
    earlier checkpoints are untouched then.
    """
    for left in folder.glob(".*.pt.*.tmp"):  # of a run that was killed while it wrote
        left.unlink(missing_ok=True)
    step = content["step"]
    path = folder / f"step-{step:08d}.pt"
    whole = io.BytesIO()  # torch turns a full disk into an error of its own; a plain write doesn't
    torch.save({"format": FORMAT, **content}, whole)
    with atomic(path) as file:
        file.write(whole.getbuffer())
    _point(path, folder / LAST)
    if best:
        _point(path, folder / BEST)
    if keep_epoch is not None:
        _point(path, epoch_file(folder, keep_epoch))
    before = [p for p in numbered(folder) if _number(p) <= step]  # the newest of them was written just now
    for old in before[keep:]:
        old.unlink(missing_ok=True)
    sync_folder(folder)
    return path


def epoch_file(folder: Path, epoch: int) -> Path:
    """Where the checkpoint after `epoch` (from 1) stays if it is kept for good."""
    return folder / f"epoch-{epoch:04d}.pt"


def numbered(folder: Path) -> list[Path]:
    """The `step-N.pt` files, newest first."""
    found = [path for path in folder.glob("step-*.pt") if path.stem.removeprefix("step-").isdecimal()]
    return sorted(found, key=_number, reverse=True)


def named(folder: Path) -> list[Path]:
    """The other names that checkpoints have: `last.pt`, `best.pt`, and those that are kept by their epoch."""
    kept = [path for path in folder.glob("epoch-*.pt") if path.stem.removeprefix("epoch-").isdecimal()]
    return [*(path for path in (folder / LAST, folder / BEST) if path.exists()), *sorted(kept)]


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def load(path: Path) -> Content:
    """Read one checkpoint onto the CPU, running no code from it. Raises as `read_verified` does."""
    return cast(Content, read_verified(path, "checkpoint", FORMAT))


def read_verified(path: Path, what: str, version: int) -> dict[str, Any]:
    """Read what `torch.save` wrote as a dictionary with its `format`, its checksums verified, running no code from it.

    `what` names the file's role. Raises `Damaged` for a file that isn't what was written, and `UserError` where it is
    missing, of another format, or can't be read for a reason that isn't the file's: no memory, no permission, a
    failing disk, too many open files.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch stores a CRC-32 with every record
        if damaged is not None:
            raise Damaged(f"{what} {path}", f"checksum of {damaged}")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no {what} at {path}") from None
    except (
        OSError,
        MemoryError,
        EOFError,
        RuntimeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
        pickle.UnpicklingError,
    ) as error:
        passing = isinstance(error, MemoryError) or "allocate memory" in str(error)  # torch raises a RuntimeError
        if passing or (isinstance(error, OSError) and not says_damage(error)):
            raise UserError(f"{what} {path} can't be read: {in_a_line(error)}") from error
        raise Damaged(f"{what} {path}", in_a_line(error)) from error
    if not isinstance(content, dict) or content.get("format") != version:
        raise UserError(f"{path} is not a {what} that this version of moco reads")
    return content


@dataclass(frozen=True)
class Found:
    """The newest whole checkpoint of a run, and what was passed over on the way to it.

    Attributes:
        path: where it was read from.
        content: what `save` was given, with `step`.
        damaged: newer files that aren't whole, with the reason.
    """

    path: Path
    content: Content
    damaged: list[tuple[Path, str]]


def newest(folder: Path) -> Found | None:
    """What a run goes on from: the whole checkpoint of the highest step, under whatever name; None where none was made.

    `last.pt` is a second name of the newest numbered file, and a copy of its own on file systems without links or
    where only it was carried along; `best.pt` and those kept by their epoch are older than both. Raises `UserError`
    with the list where there are checkpoints and none is whole, and where one can't be read for now: it may be the
    newest.
    """
    damaged: list[tuple[Path, str]] = []
    last = _whole(folder / LAST, damaged)
    newer = [path for path in numbered(folder) if last is None or _number(path) > last["step"]]
    for path in newer:
        content = _whole(path, damaged)
        if content is not None:
            return Found(path, content, damaged)
    if last is not None:
        return Found(folder / LAST, last, damaged)
    older = [(path, whole) for path in named(folder) if (whole := _whole(path, damaged)) is not None]
    if older:
        path, whole = max(older, key=lambda found: found[1]["step"])
        return Found(path, whole, damaged)
    if damaged:
        listed = ", ".join(f"{path.name} ({reason})" for path, reason in damaged)
        raise UserError(f"no checkpoint in {folder} is whole: {listed}")
    return None


def set_aside(damaged: list[tuple[Path, str]]) -> None:
    """Rename damaged files to `NAME.damaged`, so that they are neither read nor counted again; nothing is removed."""
    for path, reason in damaged:
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        say(f"{path} is damaged ({reason}): set aside as {aside.name}")


def point_best(folder: Path, path: Path) -> None:
    """Make `best.pt` a name of the checkpoint at `path`, unless it is already."""
    best = folder / BEST
    if path != best and not (best.exists() and best.samefile(path)):
        _point(path, best)


def _whole(path: Path, damaged: list[tuple[Path, str]]) -> Content | None:
    """The checkpoint at `path`; None where there is none, or where it is damaged and now in the list."""
    if not os.path.lexists(path):
        return None
    try:
        return load(path)
    except Damaged as error:
        damaged.append((path, error.reason))
        return None


def load_for_evaluation(folder: Path, which: str) -> Content:
    """The checkpoint `last`, `best`, or that after an epoch, by its number. Raises `UserError` if there is none."""
    which = str(which)
    if which == "best":
        return load(folder / BEST)
    if which != "last":
        return _of_epoch(folder, which)
    found = newest(folder)
    if found is None:
        raise UserError(f"no checkpoint in {folder}: has the pre-training saved one yet?")
    for path, reason in found.damaged:
        say(f"{path} is damaged ({reason}): taking {found.path.name} of step {found.content['step']}")
    return found.content


def _of_epoch(folder: Path, which: str) -> Content:
    if not which.isdecimal():
        raise UserError(f"--checkpoint is {which!r}, give last, best or the number of an epoch")
    path = epoch_file(folder, int(which))
    if not path.exists():
        kept = sorted(int(p.stem.removeprefix("epoch-")) for p in folder.glob("epoch-*.pt"))
        said = f"kept: {', '.join(map(str, kept))}" if kept else "none is (--checkpoint.keep_every_epochs keeps them)"
        raise UserError(f"the checkpoint of epoch {which} was not kept in {folder}; {said}")
    return load(path)


def _point(target: Path, name: Path) -> None:
    """Make `name` a second name of `target`, atomically: a hard link, or a copy where links aren't possible."""
    temporary = name.with_name(f".{name.name}.{os.getpid()}.tmp")  # `save` removes what a killed run left
    temporary.unlink(missing_ok=True)
    try:
        os.link(target, temporary)
    except OSError:  # a file system without hard links
        with atomic(name) as file, target.open("rb") as whole:
            shutil.copyfileobj(whole, file)
    else:
        temporary.replace(name)
