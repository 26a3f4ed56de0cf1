"""kill -9 of real work at chosen moments; a process forks for every attempt, so that the imports are paid for once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Reads [seconds, what, folder, pattern], forks, works in the child, and kills it so many seconds after it began, or
# after something of the pattern came to be in the folder; answers the seconds that it took, or `killed`.
_SERVER = """
import json, os, signal, sys, time
from pathlib import Path
{setup}
print("ready", flush=True)
for line in sys.stdin:
    seconds, what, folder, pattern = json.loads(line)
    began, child = time.monotonic(), os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the answers go there
        try:
            {work}
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    end = None if pattern else began + seconds
    while end is None or time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            print(time.monotonic() - began if status == 0 else "failed", flush=True)
            break
        if end is None and any(Path(folder).glob(pattern)):
            end = time.monotonic() + seconds
        time.sleep(0.0005)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print("killed", flush=True)
"""


class Worker:
    """Does its work as often as asked, killed after so many seconds."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def attempt(self, seconds: float, what: str = "", folder: Path = Path(), pattern: str = "") -> float | None:
        """Seconds that the work took, None if it was killed.

        That is `seconds` after it began, or after something of `pattern` came to be in `folder`. The work finds `what`
        in a variable of that name.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps([seconds, what, str(folder), pattern]), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline().strip()
        assert answer not in ("failed", ""), "the work failed by itself, see above"
        return None if answer == "killed" else float(answer)


@contextmanager
def worker(setup: str, work: str, environment: dict[str, str]) -> Iterator[Worker]:
    """A process that has run `setup`; `work` is one statement. What `setup` did once, no attempt has to import."""
    code = _SERVER.format(setup=setup, work=work)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            while (line := process.stdout.readline()) != "ready\n":  # what `setup` prints comes first
                assert line, "the setup failed, see above"
            yield Worker(process)
        finally:
            process.stdin.close()  # it ends at the end of its orders
