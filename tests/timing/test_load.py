"""Busy neighbours are busy, and gone for sure afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moco.timing.load import busy_neighbours

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")


def state(pid: int) -> tuple[str, int]:
    """A process's state and the processor time that it has had, in ticks; `X` for none."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0
    return words[0], int(words[11]) + int(words[12])


def wait_until(condition) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_they_are_busy_and_end_with_an_error_too() -> None:
    with pytest.raises(KeyError), busy_neighbours(2) as pids:
        assert len(pids) == 2
        wait_until(lambda: all(state(pid)[1] > 5 for pid in pids))
        raise KeyError
    assert [state(pid)[0] for pid in pids] == ["X", "X"]
    with busy_neighbours(0) as pids:
        assert pids == []


def test_they_end_when_their_parent_is_killed() -> None:
    code = (
        "import time\nfrom moco.timing.load import busy_neighbours\n"
        "with busy_neighbours(1) as pids:\n    print(pids[0], flush=True)\n    time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: state(pid)[0] in "XZ")
