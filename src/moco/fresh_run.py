"""A fresh run directory: where one may be made, and what of an older run is removed for it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import uuid
from collections.abc import Iterator
from pathlib import Path

from moco.errors import UserError, in_a_line
from moco.files import expanded, remove_written, write_json
from moco.rundir import MARKER, RunDir

_EXPORTS = r"(torchvision\.pth|timm\.pth|backbone\.safetensors|official\.pth\.tar|backbone\.onnx|detectron2\.pkl)"
_CHECKPOINT = r"(step-\d+|epoch-\d+|last|best)\.pt"
# Everything that a run writes, by folder: nothing else is ever removed.
_WRITTEN = {
    folder: re.compile(names)
    for folder, names in {
        "checkpoints": rf"{_CHECKPOINT}(\.damaged)?|\.{_CHECKPOINT}\.\d+\.tmp",
        "linear": r"classifier\.pt|metrics\.csv|result\.json|evaluation\.json",
        "plots": r"(pretrain_loss|pretrain_score|linear_loss|linear_score|labels)\.(png|svg)",
        "tensorboard/projector": r"features\.tsv|labels\.tsv|sprite\.png",
        "tensorboard": r"events\.out\.tfevents\..*|projector_config\.pbtxt",
        "export/hf": r"config\.json|model\.safetensors|README\.md",
        "export": rf"{_EXPORTS}|\.{_EXPORTS}\..*tmp",
        "": r"(config\.yaml|metrics\.csv|steps\.csv|report\.html|\.export\.lock)"
        r"|(environment|baseline|evaluation|labels|failure|finetune|result)\.json",
    }.items()
}


def check_free(path: str | os.PathLike[str], overwrite: bool = False, tuning: bool = False) -> RunDir:
    """Raises `UserError` unless a run, or a fine-tuning (`tuning`), may be made at `path`; touches nothing.

    Neither may `overwrite` the other.
    """
    if not os.fspath(path):
        raise UserError("--out is empty: give a new or empty folder")
    run = RunDir(expanded(os.fspath(path), "--out"))
    try:
        entries = _entries(run.root)
        above = next(p for p in (run.root, *run.root.absolute().parents) if p.exists())
    except OSError as error:
        raise UserError(f"--out {path}: {in_a_line(error)}") from error
    if entries and not run.is_ours():
        raise UserError(f"--out {path} holds other files, give a new or empty folder")
    if run.has_begun() and run.finetune_file.exists() != tuning:
        there, wanted = ("a pre-training", "fine-tuning") if tuning else ("a fine-tuning", "pre-training")
        raise UserError(f"{path} holds {there}, which no {wanted} overwrites: give another --out")
    if not overwrite and run.has_begun():
        quoted = shlex.quote(str(path))
        raise UserError(f"{path} already holds a run: continue with --resume {quoted}, or --overwrite it")
    if not os.access(above, os.W_OK):
        raise UserError(f"can't write to {above}, give another --out")
    return run


@contextlib.contextmanager
def created(path: str | os.PathLike[str], overwrite: bool = False, tuning: bool = False) -> Iterator[RunDir]:
    """A fresh run directory, held for this process. Raises `UserError` as `check_free` and `RunDir.locked` do.

    With `overwrite` what the run at `path` wrote is removed, and nothing else.
    """
    run = check_free(path, overwrite, tuning)
    try:
        run.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"can't make {path}: {in_a_line(error)}") from error
    with run.locked():
        check_free(path, overwrite, tuning)  # another process may have been quicker
        clear(run)
        write_json(run.root / MARKER, {"format": 1, "run": uuid.uuid4().hex, "saved": False})
        run.checkpoints.mkdir(exist_ok=True)
        yield run


def clear(run: RunDir) -> None:
    """Remove what a run wrote, and the folders that are empty then."""
    named = {path.name: _WRITTEN["linear"] for path in run.named_linears}
    for folder, names in {**named, **_WRITTEN}.items():
        if (run.root / folder).is_dir():
            remove_written(run.root / folder, names)
        if folder:
            with contextlib.suppress(OSError):  # not there, or somebody else's files are in it
                (run.root / folder).rmdir()


def _entries(root: Path) -> list[str]:
    """What lies in `root`, hidden files aside; nothing where there is no such folder. Raises `OSError` for a file."""
    try:
        return [entry.name for entry in os.scandir(root) if not entry.name.startswith(".")]
    except FileNotFoundError:
        return []
