"""Files of strangers, read without running anything in them: tensors and plain containers, or a line that says no."""

from __future__ import annotations

import pickle
import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from moco.errors import UserError, in_a_line, says_damage

SUFFIX = ".safetensors"
METADATA = "safetensors metadata"
_FOLDER_WEIGHTS = f"model{SUFFIX}"  # of a folder as Hugging Face has it
_UNREADABLE = (
    OSError, MemoryError, EOFError, RuntimeError, ValueError, KeyError, IndexError, AttributeError, TypeError,
    AssertionError, zipfile.BadZipFile, pickle.UnpicklingError, UnicodeDecodeError,
)  # fmt: skip


def read_file(path: Path) -> dict[str, Any]:
    """What `torch.save` or safetensors wrote at `path`: a dictionary with text for keys, its tensors on the CPU.

    Of a safetensors file its tensors, by name, and under `METADATA` what its header says; a folder stands for its
    `model.safetensors`. Raises `UserError` where there is no such file, where it holds anything but tensors and plain
    containers (the line names the class; nothing of it was run), and where it can't be read.
    """
    if path.is_dir():
        if not (path / _FOLDER_WEIGHTS).is_file():
            raise UserError(f"{path} is a folder without {_FOLDER_WEIGHTS}: give a file of weights")
        path = path / _FOLDER_WEIGHTS
    if not path.is_file():
        raise UserError(f"no file of weights at {path}")
    content = _safetensors(path) if path.name.endswith(SUFFIX) else _torch_file(path)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors by name")
    return content


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            told = file.metadata() or {}
            return {METADATA: told, **{name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} can't be read as safetensors: {in_a_line(error)}") from error


def _torch_file(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that torch didn't write
            return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        if isinstance(error, OSError) and not says_damage(error):
            raise UserError(f"{path} can't be read: {in_a_line(error)}") from error
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise UserError(f"{path} can't be read: not enough memory") from error
        stranger = _class_named(str(error)) or _class_in_pickle(path)
        if stranger:
            raise UserError(
                f"{path} needs the class {stranger} to be unpickled, which could run anything: refused, nothing was "
                "run; where you trust it, load it yourself and torch.save its state_dict alone"
            ) from error
        raise UserError(f"{path} is damaged, or no file of weights ({_kind(error)})") from error


def _kind(error: BaseException) -> str:
    """A few words; torch's own advice is to switch the protection off."""
    return type(error).__name__ if "weights_only" in str(error) else in_a_line(error)[:100]


def _class_named(complaint: str) -> str | None:
    found = re.search(r"GLOBAL (?!whose)([\w.]+)", complaint) or re.search(r"[Uu]nsupported class ([\w.]+)", complaint)
    return found.group(1).rstrip(".") if found else None


def _class_in_pickle(path: Path) -> str | None:
    """The first class that a bare pickle asks for, read off its instructions: none of them is followed."""
    texts: list[str] = []
    try:
        with path.open("rb") as file:
            for instruction, argument, _ in pickletools.genops(file):
                if instruction.name == "GLOBAL":
                    return str(argument).replace(" ", ".")
                if instruction.name == "STACK_GLOBAL":
                    return ".".join(texts[-2:])
                if isinstance(argument, str):
                    texts.append(argument)
    except _UNREADABLE:
        return None
    return None
