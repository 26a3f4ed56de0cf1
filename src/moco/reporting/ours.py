"""Pages that this program wrote: nothing else is ever replaced by one."""

from __future__ import annotations

from pathlib import Path

from moco.errors import UserError, in_a_line

HEAD_BYTES = 4096  # of a page, within which its generator is named


def check_ours(page: Path, generator: str) -> None:
    """Raises `UserError` if there is something at `page` that isn't a page of `generator`'s, or can't be looked at."""
    try:
        if page.is_dir() or (page.exists() and f'name="generator" content="{generator}' not in _head(page)):
            raise UserError(f"{page} is not a page that moco wrote: give another --out")
    except OSError as error:
        raise UserError(f"can't look at {page}: {in_a_line(error)}") from error


def _head(page: Path) -> str:
    with page.open("rb") as file:
        return file.read(HEAD_BYTES).decode("utf-8", "replace")
