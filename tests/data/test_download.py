"""Downloads from a server on this machine that behaves as badly as real ones do."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from moco.data import download
from moco.data.catalog import Archive
from moco.data.download import exclusive, fetch, mismatch
from moco.data.transfer import Patience
from moco.errors import UserError

CONTENT = random.Random(0).randbytes(3_000_000)
FAST = Patience(attempts=3, wait_s=0.0, timeout_s=5.0)


@dataclass
class Behaviour:
    """What the server does, and what it saw."""

    content: bytes = CONTENT
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes sent by each coming answer before it is cut
    statuses: list[int] = field(default_factory=list)  # answers of the coming requests instead of the file
    chunked: bool = False  # no Content-Length
    seen_ranges: list[str | None] = field(default_factory=list)
    sent_bytes: list[int] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        act = self.server.behaviour
        act.seen_ranges.append(self.headers["Range"])
        if act.statuses:
            self.send_error(act.statuses.pop(0))
            act.sent_bytes.append(0)
            return
        start = 0
        if act.ranges and self.headers["Range"]:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(act.content):
                self.send_error(416)
                act.sent_bytes.append(0)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(act.content) - 1}/{len(act.content)}")
        else:
            self.send_response(200)
        body = act.content[start:]
        if not act.chunked:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        body = body[: act.cuts.pop(0)] if act.cuts else body
        act.sent_bytes.append(len(body))
        try:
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):  # the client had read enough
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class Server(ThreadingHTTPServer):
    behaviour: Behaviour
    daemon_threads = True


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.behaviour = Behaviour()
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def entry(server: Server, content: bytes = CONTENT) -> Archive:
    md5, sha256 = hashlib.md5(content).hexdigest(), hashlib.sha256(content).hexdigest()
    url = f"http://127.0.0.1:{server.server_port}/files/a.tgz"
    return Archive(url, len(content), md5, sha256, root="a", folder="a")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_good_file_arrives_and_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    path = fetch(entry(server), tmp_path, FAST)
    assert path == tmp_path / "a.tgz"
    assert path.read_bytes() == CONTENT
    assert fetch(entry(server), tmp_path, FAST) == path
    assert server.behaviour.seen_ranges == [None]
    assert names(tmp_path) == ["a.tgz"]


@pytest.mark.parametrize("wrong", ["md5", "sha256"])
def test_each_checksum_is_compared_after_the_download(server: Server, tmp_path: Path, wrong: str) -> None:
    good = entry(server)
    bad = Archive(**{**vars(good), wrong: "0" * len(getattr(good, wrong))})
    with pytest.raises(UserError, match=f"its {wrong} is .* instead of 0000") as caught:
        fetch(bad, tmp_path, FAST)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def test_another_file_of_the_same_size_is_refused(server: Server, tmp_path: Path) -> None:
    server.behaviour.content = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(UserError, match="the bad file was removed"):
        fetch(entry(server), tmp_path, FAST)
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b"<html>log in first</html>"])
def test_another_size_is_refused_before_it_is_downloaded(server: Server, tmp_path: Path, content: bytes) -> None:
    server.behaviour.content = content
    with pytest.raises(UserError, match=f"offers {len(content)} bytes instead of {len(CONTENT)}"):
        fetch(entry(server), tmp_path, FAST)
    assert names(tmp_path) == []


def test_a_longer_file_of_unknown_length_is_refused(server: Server, tmp_path: Path) -> None:
    server.behaviour.content, server.behaviour.chunked = CONTENT + b"x" * 1000, True
    with pytest.raises(UserError, match=f"{len(CONTENT) + 1} bytes instead of {len(CONTENT)}"):
        fetch(entry(server), tmp_path, FAST)
    assert names(tmp_path) == []


def test_a_damaged_file_that_was_already_there_is_detected(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.tgz"
    damaged = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    path.write_bytes(damaged)
    fetch(entry(server), tmp_path, FAST)
    assert path.read_bytes() == CONTENT
    assert path.with_name("a.tgz.damaged-1").read_bytes() == damaged  # whosever it was
    assert server.behaviour.seen_ranges == [None]
    assert "is damaged (its md5 is" in capsys.readouterr().err


def test_a_cut_connection_is_continued_with_only_the_rest(server: Server, tmp_path: Path) -> None:
    server.behaviour.cuts = [1_000_000]
    assert fetch(entry(server), tmp_path, FAST).read_bytes() == CONTENT
    assert server.behaviour.seen_ranges == [None, "bytes=1000000-"]
    assert server.behaviour.sent_bytes == [1_000_000, 2_000_000]


def test_a_later_call_continues_what_an_earlier_one_left(server: Server, tmp_path: Path) -> None:
    server.behaviour.cuts = [700_000, 0, 0, 0]
    with pytest.raises(UserError, match=r"broke off after 0\.7 MB.*0\.7 of 3\.0 MB are kept"):
        fetch(entry(server), tmp_path, FAST)
    assert names(tmp_path) == ["a.tgz.moco-part"]
    assert fetch(entry(server), tmp_path, FAST).read_bytes() == CONTENT
    assert server.behaviour.seen_ranges[-1] == "bytes=700000-"
    assert server.behaviour.sent_bytes == [700_000, 0, 0, 0, 2_300_000]
    assert names(tmp_path) == ["a.tgz"]


def test_many_cuts_are_survived_as_long_as_there_is_progress(server: Server, tmp_path: Path) -> None:
    server.behaviour.cuts = [300_000] * 8
    assert fetch(entry(server), tmp_path, FAST).read_bytes() == CONTENT
    assert sum(server.behaviour.sent_bytes) == len(CONTENT)


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.behaviour.ranges, server.behaviour.cuts = False, [1_000_000]
    assert fetch(entry(server), tmp_path, FAST).read_bytes() == CONTENT
    assert server.behaviour.seen_ranges == [None, "bytes=1000000-"]
    assert server.behaviour.sent_bytes == [1_000_000, 3_000_000]


def test_a_server_without_ranges_that_always_cuts_is_given_up(server: Server, tmp_path: Path) -> None:
    server.behaviour.ranges, server.behaviour.cuts = False, [1_000_000] * 50
    with pytest.raises(UserError, match="check the network"):
        fetch(entry(server), tmp_path, FAST)
    assert len(server.behaviour.sent_bytes) == 1 + FAST.attempts


def test_a_part_that_is_no_beginning_is_found_out(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.tgz.moco-part").write_bytes(b"x" * 1000)
    with pytest.raises(UserError, match="its md5 is"):
        fetch(entry(server), tmp_path, FAST)
    assert names(tmp_path) == []
    assert fetch(entry(server), tmp_path, FAST).read_bytes() == CONTENT


def test_a_part_too_long_is_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.tgz.moco-part").write_bytes(CONTENT + b"x")
    assert fetch(entry(server), tmp_path, FAST).read_bytes() == CONTENT
    assert server.behaviour.seen_ranges == [None]


def test_a_complete_part_is_only_verified(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.tgz.moco-part").write_bytes(CONTENT)
    assert fetch(entry(server), tmp_path, FAST).read_bytes() == CONTENT
    assert server.behaviour.seen_ranges == []


def test_a_range_beyond_the_end_starts_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.tgz.moco-part").write_bytes(CONTENT[:1000])
    server.behaviour.statuses = [416]
    assert fetch(entry(server), tmp_path, FAST).read_bytes() == CONTENT
    assert server.behaviour.seen_ranges == ["bytes=1000-", None]


def test_a_missing_file_is_said_at_once(server: Server, tmp_path: Path) -> None:
    server.behaviour.statuses = [404]
    with pytest.raises(UserError, match=r"can't download http://127.*a\.tgz: the server answers 404"):
        fetch(entry(server), tmp_path, FAST)
    assert len(server.behaviour.seen_ranges) == 1
    assert names(tmp_path) == []


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.behaviour.statuses = [503, 429]
    assert fetch(entry(server), tmp_path, FAST).read_bytes() == CONTENT
    assert len(server.behaviour.seen_ranges) == 3


def test_no_network_is_one_line(server: Server, tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.tgz"
        nowhere = Archive(**{**vars(entry(server)), "url": url})
        with pytest.raises(UserError, match=r"no connection .*check the network") as caught:
            fetch(nowhere, tmp_path, FAST)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def test_a_full_disk_is_one_line(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = Path.open

    def full(path: Path, mode: str = "r", *args: object, **kwargs: object) -> object:
        if path.suffix == ".moco-part" and mode in ("wb", "ab"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_open(path, mode, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match=r"the disk of .* is full: free some space"):
        fetch(entry(server), tmp_path, FAST)


def test_too_small_a_disk_is_said_before_the_download(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = download.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=2_000_000))
    with pytest.raises(UserError, match=r"has 2\.0 MB free, the download needs 3\.0 MB"):
        fetch(entry(server), tmp_path, FAST)
    assert server.behaviour.seen_ranges == []


def test_mismatch_names_the_size(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "short"
    path.write_bytes(CONTENT[:5])
    assert mismatch(path, entry(server)) == "5 bytes instead of 3000000"


def test_a_file_that_cannot_be_read_is_not_damaged(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tgz"
    path.write_bytes(CONTENT)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(UserError, match=r"a\.tgz can't be read: Input/output error"):
        fetch(entry(server), tmp_path, FAST)
    monkeypatch.undo()
    assert path.read_bytes() == CONTENT


def test_two_downloads_into_one_folder_take_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []
    second_waits = threading.Event()

    def second() -> None:
        second_waits.set()
        with exclusive(tmp_path):
            order.append("second")

    thread = threading.Thread(target=second)
    with exclusive(tmp_path):
        thread.start()
        assert second_waits.wait(5)
        thread.join(0.5)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]
    assert "waiting for it" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"can't write to .*file/data.*choose another .*--to"),
        exclusive(tmp_path / "file" / "data"),
    ):
        pass
