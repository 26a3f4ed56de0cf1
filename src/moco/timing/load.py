"""Busy neighbours: processes that want a core each, for measuring what a run does beside other programs."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

# Arithmetic without end, until nobody is left at the other end of the pipe: so it ends however its parent does.
_SPIN = """
import select
while not select.select([0], [], [], 0)[0]:
    sum(i * i for i in range(200_000))
"""


@contextlib.contextmanager
def busy_neighbours(count: int) -> Iterator[list[int]]:
    """While it is entered, `count` processes are busy; gives their process numbers. None of them outlives it."""
    neighbours: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            neighbours.append(subprocess.Popen([sys.executable, "-S", "-E", "-c", _SPIN], stdin=subprocess.PIPE))
        yield [neighbour.pid for neighbour in neighbours]
    finally:
        for neighbour in neighbours:
            neighbour.kill()
        for neighbour in neighbours:
            neighbour.communicate()
