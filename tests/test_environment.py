"""What is noted of where a run ran."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from moco import environment


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(
        ["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_that_of_this_programs_source_and_of_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "site-packages" / "environment.py"
    source.parent.mkdir()
    source.write_text("1")
    monkeypatch.setattr(environment, "__file__", str(source))
    assert environment.commit() is None
    git(tmp_path, "init", "-q")
    (tmp_path / "theirs.txt").write_text("1")
    git(tmp_path, "add", "theirs.txt")
    git(tmp_path, "commit", "-qm", "theirs")
    assert environment.commit() is None  # the package lies in a repository that it isn't part of
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "ours")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert environment.commit() == head[:12]
    source.write_text("2")
    assert environment.commit() == f"{head[:12]}-dirty"
    assert environment.describe()["commit"] == f"{head[:12]}-dirty"
