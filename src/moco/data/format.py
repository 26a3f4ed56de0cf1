"""Whether a store keeps pixels or JPEGs, where nobody said: by what the pixels would take of the free disk."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Literal

from moco.data.images import BadImage, read_picture, scaled_size
from moco.data.item import Item

Format = Literal["raw", "jpeg"]

SHARE = 0.5  # of the free disk that pixels may take: runs, and what else is written, need the rest
LOOKED_AT = 64  # images whose sizes stand for all
GB = 1e9


def decide(raw_bytes: int, free_bytes: int, where: str) -> tuple[Format, str]:
    """What to pack, and a line that says why JPEGs, where it is they. A pure function, so that it can be tested."""
    if raw_bytes <= SHARE * free_bytes:
        return "raw", ""
    told = f"about {raw_bytes / GB:,.1f} GB of pixels, {free_bytes / GB:,.1f} GB free in {where}"
    return "jpeg", f"store.format jpeg: {told}, of which pixels may take {SHARE:.0%} (--store.format raw insists)"


def raw_bytes(items: list[Item], short_side: int) -> int:
    """Bytes of the pixels of `items` at `short_side`, reckoned from the sizes of some; 0 if none can be read."""
    found = []
    for item in items[:: max(1, len(items) // LOOKED_AT)]:
        with contextlib.suppress(BadImage, OSError):  # packing counts and names them
            picture = read_picture(item.read(), 1)
            width, height = scaled_size((picture.width, picture.height), short_side)
            found.append(3 * width * height)
    return len(items) * sum(found) // max(len(found), 1)


def free_bytes(folder: Path) -> int:
    """Bytes free on the disk of `folder`, which may not be there yet. Raises `OSError` where that can't be told."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free
