"""The ways out, by name. A new one is a file with a subclass of `Format`, and a line here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from moco.errors import UserError, nearest

if TYPE_CHECKING:
    from moco.exchange.outgoing import Format

# Name -> file and class in this folder, imported when it is asked for: `moco export --help` loads none of them.
FORMATS = {
    "torchvision": ("torchvision", "Torchvision"),
    "timm": ("timm", "Timm"),
    "safetensors": ("safetensors", "Safetensors"),
    "official": ("official", "Official"),
    "onnx": ("onnx", "Onnx"),
    "detectron2": ("detectron2", "Detectron2"),
    "hf": ("hf", "HuggingFace"),
}


def check_format(name: str) -> None:
    """Raises `UserError` with the nearest names for an unknown one."""
    if name not in FORMATS:
        raise UserError(f"unknown --format {name!r}: {nearest(name, FORMATS)}")


def find_format(name: str) -> Format:
    """The format called `name`. Raises `UserError` as `check_format` does."""
    check_format(name)
    module, kind = FORMATS[name]
    found: Format = getattr(import_module(f"moco.exchange.{module}"), kind)()
    return found
