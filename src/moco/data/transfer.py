"""The bytes of one file over HTTP: continued where a connection broke off, with patience."""

from __future__ import annotations

import contextlib
import errno
import http.client
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from moco import __version__
from moco.console import progress, say
from moco.data.catalog import Archive
from moco.errors import UserError

CHUNK_BYTES = 1 << 18
TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Patience:
    """How long to put up with a bad connection.

    Attributes:
        attempts: failures in a row, without one new byte, until it gives up.
        wait_s: seconds before the second attempt, doubled for each one after it.
        timeout_s: seconds without any byte until a connection counts as lost.
    """

    attempts: int = 4
    wait_s: float = 1.0
    timeout_s: float = 30.0


class Dropped(Exception):
    """The connection was lost, or the server is busy: worth another attempt."""


def transfer(archive: Archive, part: Path, patience: Patience) -> None:
    """Append to `part` until it has all its bytes. Raises `UserError` when patience ends."""
    failures, furthest_bytes = 0, size_bytes(part)
    if furthest_bytes:
        say(f"continuing {archive.filename} after {furthest_bytes / 1e6:.1f} MB")
    with progress(archive.filename, archive.size_bytes, "bytes") as bar:
        bar.update(furthest_bytes)
        while size_bytes(part) < archive.size_bytes:
            try:
                _receive(archive, part, patience.timeout_s, bar.update)
            except Dropped as drop:
                # Only bytes never seen before are progress: a server that starts over could go on for ever.
                failures = 0 if size_bytes(part) > furthest_bytes else failures + 1
                furthest_bytes = max(furthest_bytes, size_bytes(part))
                if failures >= patience.attempts:
                    raise UserError(
                        f"can't download {archive.url}: {drop}; check the network and run the command again "
                        f"({size_bytes(part) / 1e6:.1f} of {archive.size_bytes / 1e6:.1f} MB are kept)"
                    ) from drop
                wait_s = patience.wait_s * 2 ** max(0, failures - 1)
                say(f"{archive.filename}: {drop}; trying again in {wait_s:.0f} s")
                time.sleep(wait_s)


def _receive(archive: Archive, part: Path, timeout_s: float, report: Callable[[int], None]) -> None:
    """One request: the rest of `part`, or all of it from a server that can't continue. Raises `Dropped`."""
    start = size_bytes(part)
    with _open(archive.url, part, start, timeout_s) as response:
        if start and not _continues(response, start):
            start = 0
        if response.length is not None and start + response.length != archive.size_bytes:
            part.unlink(missing_ok=True)
            offered = f"{start + response.length} bytes instead of {archive.size_bytes}"
            raise UserError(f"{archive.url}: the server offers {offered}")
        done = start
        with _writing(part), part.open("ab" if start else "wb") as file:
            # One byte more than expected would show, so that a longer file can't pass or fill the disk.
            while chunk := _read(response, min(CHUNK_BYTES, archive.size_bytes + 1 - done)):
                file.write(chunk)
                done += len(chunk)
                report(done)
    if done < archive.size_bytes:
        raise Dropped(f"the connection broke off after {done / 1e6:.1f} MB")


def _open(url: str, part: Path, start: int, timeout_s: float) -> Any:
    headers = {"User-Agent": f"moco/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        return urlopen(Request(url, headers=headers), timeout=timeout_s)
    except HTTPError as error:
        error.close()
        if error.code == 416:  # nothing beyond `start`: what we have is not the beginning of that file
            part.unlink()
            raise Dropped("the server can't continue there, starting over") from error
        if error.code in TRANSIENT_STATUS:
            raise Dropped(f"the server answers {error.code} {error.reason}") from error
        raise UserError(f"can't download {url}: the server answers {error.code} {error.reason}") from error
    except URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise UserError(f"can't download {url}: {error.reason}") from error
        raise Dropped(f"no connection ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise Dropped(f"no connection ({error})") from error


def _continues(response: Any, start: int) -> bool:
    """Whether the answer is the rest after `start` bytes: a server without Range sends all, status 200."""
    return response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _read(response: Any, limit_bytes: int) -> bytes:
    try:
        return response.read(limit_bytes)
    except (OSError, http.client.HTTPException) as error:
        raise Dropped(f"the connection was lost ({error or type(error).__name__})") from error


@contextlib.contextmanager
def _writing(part: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"the disk of {part.parent} is full: free some space and run the command again") from error
        raise UserError(f"can't write {part}: {error.strerror or error}") from error


def size_bytes(path: Path) -> int:
    """Bytes of the file at `path`, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0
