"""What the tests of bad input share."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

NOBODY = 65534


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a file of that kind."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(numbers: np.ndarray, **options: Any) -> bytes:
    """The bytes of a TIFF of any kind of numbers."""
    file = io.BytesIO()
    tifffile.imwrite(file, numbers, **options)
    return file.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    """A tar of those members, in that order."""
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may write to (pytest's own belong to who runs it)."""
    folder = Path(tempfile.mkdtemp(prefix="moco-test-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def unprivileged() -> Iterator[Callable[[], None]]:
    """A call after which permissions count, for root too, until the test ends."""
    was_root = os.geteuid() == 0

    def drop() -> None:
        if was_root:
            os.seteuid(NOBODY)

    yield drop
    if was_root:
        os.seteuid(0)
