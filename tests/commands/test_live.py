"""What a person sees while a run trains: in a terminal, in one that is dumb, and in a file; with labels and without."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.conftest import SMALL

import moco
from moco import checkpoint
from moco.cli import main
from moco.console import Bar, listening
from moco.train import loop

SOUND = {"too early", "learning"}


class Watching:
    """A listener that keeps every line and every title of a bar."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.titles: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    @contextlib.contextmanager
    def progress(self, title: str, total: float, unit: str) -> Iterator[Bar]:
        yield self

    def update(self, done: float, title: str | None = None, rate: str | None = None) -> None:
        self.titles += [] if title is None else [title]


def command(data: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "moco", "pretrain", *SMALL, "--data", str(data), "--out", str(out)]


def test_a_file_gets_lines_and_no_control_characters(labelled: Path, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        done = subprocess.run(command(labelled, tmp_path / "run"), stdout=log, stderr=log, check=False, timeout=280)
    text = (tmp_path / "log").read_bytes()
    assert done.returncode == 0, text
    assert [byte for byte in text if byte < 32 and byte != 10] == [] and 127 not in text
    assert text.count(b"\nepoch ") == 2 and b"epoch 2/2  loss" in text


@pytest.mark.parametrize(("term", "escapes"), [("dumb", False), ("xterm", True)])
def test_a_terminal_gets_a_bar_unless_it_is_dumb(labelled: Path, tmp_path: Path, term: str, escapes: bool) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": term}
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        environment.pop(name, None)
    run = subprocess.Popen(
        command(labelled, tmp_path / "run"), stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # Linux's word for: the other end is closed
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    assert run.wait(timeout=60) == 0, shown
    assert b"epoch 2/2  loss" in shown
    assert (b"\x1b" in shown) == escapes


def test_the_bar_tells_loss_score_verdict_and_end(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "REFRESH_S", 0.0)
    seen = Watching()
    with listening(seen):
        assert main(command(labelled, tmp_path / "run")[3:]) == 0
    row = moco.open_run(tmp_path / "run").metrics[0]
    first, last = seen.titles[0], seen.titles[-1]
    assert first.startswith("epoch 1/2, loss ") and "kNN" not in first and ", ends in 0:" in first
    score = f"kNN {100 * (row['knn_top1'] or 0):.1f} %" if row.get("knn_top1") is not None else ""
    assert last.startswith("epoch 2/2, loss ") and score in last and ", too early, ends in" in last


def test_without_labels_the_log_says_that_a_proxy_chooses_the_best(flat: Path, tmp_path: Path) -> None:
    seen = Watching()
    with listening(seen):
        assert main([*command(flat, tmp_path / "run")[3:], "--monitor.every_epochs=1"]) == 0
    run = moco.open_run(tmp_path / "run")
    assert any("proxy" in line and "docs/label-free.md" in line for line in seen.lines)
    assert any(line.startswith("best view_top1 ") and "proxy" in line for line in seen.lines)
    values = [row["view_top1"] or 0.0 for row in run.metrics]
    assert all(row["feature_rank"] is not None and row["lidar"] is not None for row in run.metrics)
    best = checkpoint.load_for_evaluation(run.folder.checkpoints, "best")
    assert len(best["state"]["rows"]) == 1 + values.index(max(values))
    assert best["state"]["best"] == max(values)


def test_proxies_and_leak_are_the_same_after_a_resume(flat: Path, tmp_path: Path) -> None:
    whole = [*command(flat, tmp_path / "whole")[3:], "--train.batch_size=4", "--monitor.every_epochs=1"]
    assert main(whole) == 0
    run = moco.open_run(tmp_path / "whole")
    torch.manual_seed(999)  # nothing may hang on torch's own generator
    broken = [*command(flat, tmp_path / "broken")[3:], "--train.batch_size=4", "--monitor.every_epochs=1"]
    assert main(broken) == 0
    for name in ("step-*.pt", "best.pt"):
        newest = sorted((tmp_path / "broken" / "checkpoints").glob(name))[-1]
        newest.unlink()
    (tmp_path / "broken" / "checkpoints" / "last.pt").unlink()
    assert main(["pretrain", "--resume", str(tmp_path / "broken")]) == 0
    again = moco.open_run(tmp_path / "broken")
    told = ("loss", "key_lag", "contrast_by_batch_statistics", "contrast_by_running_statistics", "lidar", "view_top1")
    assert [[row[name] for name in told] for row in again.metrics] == [
        [row[name] for name in told] for row in run.metrics
    ]
    assert all(row["contrast_by_batch_statistics"] is not None for row in run.metrics)
