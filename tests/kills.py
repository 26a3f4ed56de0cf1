"""kill -9 of real work at chosen moments; a process forks for every attempt, so that the imports are paid for once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Reads seconds, forks, works in the child, kills it after that time; answers the seconds it took, or `killed`.
_SERVER = """
import os, signal, sys, time
{setup}
print("ready", flush=True)
for line in sys.stdin:
    began, child = time.monotonic(), os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the answers go there
        try:
            {work}
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    end = began + float(line)
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            print(time.monotonic() - began if status == 0 else "failed", flush=True)
            break
        time.sleep(0.002)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print("killed", flush=True)
"""


class Worker:
    """Does its work as often as asked, killed after so many seconds."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def attempt(self, seconds: float) -> float | None:
        """Seconds that the work took, None if it was killed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(seconds, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline().strip()
        assert answer not in ("failed", ""), "the work failed by itself, see above"
        return None if answer == "killed" else float(answer)


@contextmanager
def worker(setup: str, work: str, environment: dict[str, str]) -> Iterator[Worker]:
    """A process that has run `setup`; `work` is one statement."""
    code = _SERVER.format(setup=setup, work=work)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Worker(process)
        assert process.stdin is not None
        process.stdin.close()
