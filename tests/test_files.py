"""A file is there whole or not at all; the old one survives every failure."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from moco.errors import UserError
from moco.files import atomic, expanded, is_locked, locked, read_json, write_json, write_text


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_write_and_replace(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    for text in ("first", "second, longer", ""):
        write_text(path, text)
        assert contents(path.parent) == {"file": text.encode()}


def test_the_old_file_is_there_until_the_new_one_is(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert contents(tmp_path) == {"file": b"new"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, UserError, SystemExit])
@pytest.mark.parametrize("existed", [True, False])
def test_failure_leaves_nothing(tmp_path: Path, error: type[BaseException], existed: bool) -> None:
    path = tmp_path / "file"
    if existed:
        path.write_bytes(b"old")
    with pytest.raises(error), atomic(path) as file:
        file.write(b"half")
        raise error("stop")
    assert contents(tmp_path) == ({"file": b"old"} if existed else {})


def test_failure_of_the_disk_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(UserError, match=f"can't write {path}: No space left on device"), atomic(path) as file:
        file.write(b"half")
        raise OSError(28, "No space left on device")
    assert contents(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "sub").touch(),  # a file where the folder should be
        lambda folder: (folder / "sub" / "file").mkdir(parents=True),  # a folder where the file should be
        lambda folder: (folder / "sub").symlink_to("sub"),
    ],
    ids=["file-as-folder", "folder-as-file", "loop"],
)
def test_impossible_places(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    spoil(tmp_path)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(UserError, match="can't write"):
        write_text(tmp_path / "sub" / "file", "text")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_full_disk(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
from moco.errors import UserError
from moco.files import write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_text(Path(sys.argv[1]), "x" * 5000)
except UserError as error:
    sys.exit(f"refused: {error}")
"""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False, capture_output=True, text=True)
    assert done.stderr.startswith(f"refused: can't write {path}: File too large")
    assert contents(tmp_path) == {"file": b"old"}


@pytest.mark.timeout(60)
def test_kill_at_any_moment(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from moco.files import write_text
n = 0
while True:
    n += 1
    write_text(Path(sys.argv[1]), f"{n}\\n" * 5000)
"""
    path = tmp_path / "file"
    for wait_s in (0.0, 0.01, 0.03):
        run = subprocess.Popen([sys.executable, "-c", code, str(path)])
        while not path.exists():
            time.sleep(0.01)
        time.sleep(wait_s)
        run.send_signal(signal.SIGKILL)
        run.wait()
        lines = path.read_text().split()
        assert len(lines) == 5000
        assert len(set(lines)) == 1


def test_json(tmp_path: Path) -> None:
    value = {"name": "Müller \udcff\n", "list": [1, 2.5, None, True]}
    write_json(tmp_path / "file", value)
    assert read_json(tmp_path / "file", "thing") == value
    with pytest.raises(TypeError):
        write_json(tmp_path / "file", {"a": object()})
    assert read_json(tmp_path / "file", "thing") == value
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("locale", ["C.UTF-8", "POSIX", "en_US.ISO-8859-1"])
def test_text_is_utf8_in_any_locale(tmp_path: Path, locale: str) -> None:
    imports = "import sys; from pathlib import Path; from moco.files import write_text"
    code = imports + "; write_text(Path(sys.argv[1]), '\\xdc \\u732b')"
    environment = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "file")], check=True, env=environment)
    assert (tmp_path / "file").read_bytes() == "Ü 猫".encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no thing at"), (b"{", "can't be read"), (b"\xff", "can't be read"), (b"", "can't be read")],
)
def test_unreadable_json(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_json(tmp_path / "file", "thing")
    assert "\n" not in str(caught.value)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"thing .* can't be read"):
        read_json(tmp_path / "folder", "thing")


def test_a_lock_dies_with_its_process_and_not_before(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    code = "import sys, time; from pathlib import Path; from moco.files import locked\n"
    code += "with locked(Path(sys.argv[1]), 'busy'):\n print('held', flush=True); time.sleep(100)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="busy here"), locked(lock, "busy here"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with (
        locked(lock, "busy"),
        pytest.raises(UserError, match="in this process too"),
        locked(lock, "in this process too"),
    ):
        pass


def test_waiting_for_a_lock_is_said_once(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    code = "import sys, time; from pathlib import Path; from moco.files import locked\n"
    code += "with locked(Path(sys.argv[1]), 'busy'):\n print('held', flush=True); time.sleep(0.4)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    said: list[str] = []
    with locked(lock, "waiting for it", said.append):
        assert said == ["waiting for it"]
    assert holder.wait() == 0


def test_a_lock_where_nothing_can_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't lock"), locked(tmp_path / "file" / ".lock", "busy"):
        pass


def test_looking_whether_a_lock_is_held_makes_none_and_never_refuses_its_owner(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    assert not is_locked(path) and not path.exists()
    with locked(path, "busy"):
        assert is_locked(path)
    assert path.exists() and not is_locked(path)
    code = (
        "import sys, time, pathlib; from moco.files import is_locked; path = pathlib.Path(sys.argv[1]);"
        "print('looking', flush=True); end = time.time() + 3\nwhile time.time() < end: is_locked(path)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as looking:
        assert looking.stdout is not None and looking.stdout.readline()
        for _ in range(50):
            with locked(path, "busy"):
                pass
        looking.kill()


def test_nobodys_home_is_named() -> None:
    assert expanded("~", "--data") == Path.home()
    with pytest.raises(UserError, match="--recipe ~nobody-here/x: "):
        expanded("~nobody-here/x", "--recipe")
