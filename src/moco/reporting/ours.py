"""Files that this program writes where a user says: it signs them, and replaces only what has its signature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL.PngImagePlugin import PngInfo

from moco.errors import UserError, in_a_line

HEAD_BYTES = 4096  # of a file, within which it says who wrote it
KEY = "written_by"  # of a JSON file, its first


def check_ours(path: Path, program: str) -> None:
    """Raises `UserError` if there is something at `path` that `program`, "moco report" say, didn't write and sign.

    What a signature looks like follows from the ending: `.html`, `.png`, and JSON for all others.
    """
    signature = {".html": f'name="generator" content="{program}', ".htm": f'name="generator" content="{program}',
                 ".png": f"Software\0{program}"}.get(path.suffix.lower(), f'"{KEY}": "{program}"')  # fmt: skip
    try:
        if path.is_dir() or (path.exists() and signature not in _head(path)):
            raise UserError(f"{path} is there and doesn't say that {program} wrote it: give another name")
    except OSError as error:
        raise UserError(f"can't look at {path}: {in_a_line(error)}") from error


def signed_picture(program: str) -> PngInfo:
    """What Pillow is to put into a PNG (`pnginfo`)."""
    made = PngInfo()
    made.add_text("Software", program)
    return made


def signed(values: dict[str, Any], program: str) -> dict[str, Any]:
    """`values` for a JSON file."""
    return {KEY: program, **values}


def _head(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES).decode("utf-8", "replace")
