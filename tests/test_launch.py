"""`launch`: how processes that end are waited for and told of."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from moco import launch as launching
from moco.console import Silent, listening, say
from moco.errors import Interrupted
from moco.launch import launch

ROOT = Path(__file__).parents[1]


# What the processes do.


def stop_and_save(file: str) -> None:
    if os.environ["RANK"] == "0":
        time.sleep(2)
        Path(file).write_text("saved")
    raise Interrupted("stopped and saved")


def fill_the_memory() -> None:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")


def press_a_key() -> None:
    raise KeyboardInterrupt


def speak() -> None:
    say("a line")


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where the processes find this file


def test_a_stop_waits_for_whoever_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "GRACE_S", 0.2)
    file = tmp_path / "checkpoint"
    with pytest.raises(Interrupted, match="stopped and saved"):
        launch(2, f"{__name__}:stop_and_save", {"file": str(file)}, "")
    assert file.read_text() == "saved"


@pytest.mark.parametrize(("job", "kind"), [("fill_the_memory", MemoryError), ("press_a_key", KeyboardInterrupt)])
def test_what_is_no_bug_is_passed_on(job: str, kind: type[BaseException], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(kind):
        launch(2, f"{__name__}:{job}", {}, "")
    assert capfd.readouterr().err == ""


def test_the_processes_are_as_silent_as_who_started_them(capfd: pytest.CaptureFixture[str]) -> None:
    launch(1, f"{__name__}:speak", {}, "")
    assert capfd.readouterr().err == "a line\n"
    with listening(Silent()):
        launch(1, f"{__name__}:speak", {}, "")
    assert capfd.readouterr().err == ""
