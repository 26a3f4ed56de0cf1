"""`runtime.devices N`: N processes on this machine, watched by the one that was started.

The processes find each other as torchrun's do. They are in a session of their own: a signal reaches them once, from
here, and not from the terminal too. When this process dies they save and stop.

    python -m moco.launch JOB      is what each of them runs
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from moco.console import Silent, is_silent, listen
from moco.errors import (
    EXIT_INTERRUPTED,
    EXIT_KEYBOARD,
    EXIT_USER_ERROR,
    Interrupted,
    TrainingFailed,
    UserError,
    out_of_memory,
)
from moco.files import read_json, write_json

GRACE_S = 30.0  # from the first process that fails to the end of the others
_LOOK_S = 0.1
_SIGNALS = tuple(getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, n))
# How a process ends that raises one of these; the first kinds are told before the others.
_EXITS: dict[type[BaseException], int] = {
    UserError: EXIT_USER_ERROR, MemoryError: EXIT_USER_ERROR, Interrupted: EXIT_INTERRUPTED,
    KeyboardInterrupt: EXIT_KEYBOARD, TrainingFailed: 1,
}  # fmt: skip
_CAUSES = (UserError, MemoryError, Interrupted, KeyboardInterrupt)  # of a failure, never what follows from one


class _Ended(NamedTuple):
    rank: int
    code: int


def launch(devices: int, function: str, arguments: dict[str, Any], go_on: str) -> None:
    """Call `function` ("moco.module:name") with `arguments` (plain values) in `devices` processes; wait for all.

    `go_on` is the command to type after a failure. Raises what the processes raised (`UserError`, `Interrupted`,
    `TrainingFailed`; `MemoryError` for any way of running out of it; `KeyboardInterrupt` where a signal came before
    anything had to be saved), and `TrainingFailed` with the rank where one was killed.
    """
    with tempfile.TemporaryDirectory(prefix="moco-") as scratch:
        job = Path(scratch) / "job.json"
        write_json(job, {"function": function, "arguments": arguments, "argv": sys.argv, "silent": is_silent()})
        port = _free_port()
        processes = [_started(rank, devices, port, job) for rank in range(devices)]
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        try:
            if threading.current_thread() is threading.main_thread():
                for number in _SIGNALS:
                    if before[number] is not signal.SIG_IGN:
                        signal.signal(number, lambda n, frame: _send(processes, n))
            ended = _watched(processes)
        finally:
            _send([p for p in processes if p.poll() is None], signal.SIGKILL)
            for process in processes:
                process.wait()
                assert process.stdin is not None
                process.stdin.close()
            for number, handler in before.items():
                if threading.current_thread() is threading.main_thread() and handler is not None:
                    signal.signal(number, handler)
        _raise_for(ended, job.parent, go_on)


def _started(rank: int, devices: int, port: int, job: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ, "RANK": str(rank), "WORLD_SIZE": str(devices), "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(devices), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    words = [sys.executable, "-m", "moco.launch", str(job)]
    return subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, start_new_session=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _send(processes: list[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        process.send_signal(number)


def _watched(processes: list[subprocess.Popen[bytes]]) -> list[_Ended]:
    """Wait until every process has ended; in the order in which they did. The first that fails ends the others."""
    ended: list[_Ended] = []
    waiting = dict(enumerate(processes))
    failed_at: float | None = None
    while waiting:
        for rank, process in list(waiting.items()):
            if (code := process.poll()) is not None:
                del waiting[rank]
                ended.append(_Ended(rank, code))
                if code not in (0, EXIT_INTERRUPTED) and failed_at is None:  # after a signal all end, each in its time
                    failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > GRACE_S:
            _send(list(waiting.values()), signal.SIGKILL)
        time.sleep(_LOOK_S)
    return ended


def _raise_for(ended: list[_Ended], folder: Path, go_on: str) -> None:
    """Say what happened: what a process told, before what was done to one, before what followed from that."""
    failed = [e for e in ended if e.code != 0]
    if not failed:
        return
    for kind in _CAUSES:
        for rank, _ in sorted(failed):
            told = folder / f"{rank}.json"
            if told.exists() and (content := read_json(told, "message"))["kind"] == kind.__name__:
                raise kind(content["text"])
    killed = [e for e in failed if e.code < 0]
    if killed:
        rank, code = killed[0]
        raise TrainingFailed(
            f"rank {rank} of {len(ended)} was ended by {signal.Signals(-code).name}, and the run with it; {go_on}"
        )
    rank = failed[0].rank
    told = folder / f"{rank}.json"
    what = read_json(told, "message")["text"] if told.exists() else "failed: its lines stand above"
    raise TrainingFailed(f"rank {rank}: {what}")


def _watch_parent() -> None:
    """End this process, in order, when the one that started it is gone: the pipe that it holds open closes then."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="moco-parent").start()


def main(job: Path) -> int:
    """Do the job as the rank that the environment says; what is raised goes to a file beside the job."""
    _watch_parent()
    content = json.loads(job.read_text())
    sys.argv = content["argv"]
    if content["silent"]:
        listen(Silent())
    module, _, name = content["function"].partition(":")
    rank = os.environ["RANK"]
    try:
        getattr(import_module(module), name)(**content["arguments"])
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last line of defence
        kind = MemoryError if out_of_memory(error) else next((kind for kind in _EXITS if isinstance(error, kind)), None)
        if kind is not None:
            write_json(job.parent / f"{rank}.json", {"kind": kind.__name__, "text": str(error)})
            return _EXITS[kind]
        print(f"moco: rank {rank}: this is a bug in moco, please report these lines", file=sys.stderr)
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    if code not in (0, EXIT_INTERRUPTED):  # the others wait for this one, and an orderly end might wait for them
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
