"""Reading one file: all of it, its beginning, and never one that is larger than any picture."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from moco.data.images import BadImage
from moco.data.item import MOST_BYTES, Item


def test_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    item = Item("a", tmp_path / "a", 2, 5, 0)
    assert (item.read(), item.read(3), item.read(100)) == (b"23456", b"234", b"23456")


def test_a_huge_file_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "movie.gif").touch()
    os.truncate(tmp_path / "movie.gif", 2**40)
    item = Item("movie.gif", tmp_path / "movie.gif", 0, 2**40, 0)
    with pytest.raises(BadImage, match=r"1,024\.0 GiB, more than any picture \(0\.5 GiB\)"):
        item.read()
    assert item.read(32) == bytes(32)
    with pytest.raises(BadImage):
        Item("movie.gif", tmp_path / "movie.gif", 0, MOST_BYTES + 1, 0).read()


READ = """
import sys
from pathlib import Path
from moco.data.item import Item
try:
    Item("a", Path(sys.argv[1]), 0, 2**29, 0).read()
except OSError as error:
    print(error.strerror)
"""


def test_no_memory_is_no_property_of_the_picture(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    os.truncate(tmp_path / "a", 2**29)

    def little() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (2**28, 2**28))

    command = [sys.executable, "-c", READ, str(tmp_path / "a")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, preexec_fn=little, timeout=60)
    assert done.stdout == "Cannot allocate memory\n", done.stderr
