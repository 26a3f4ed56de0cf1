"""Runs seen from outside: what they were, what they are doing, and what differs between two."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import moco
from moco.errors import Interrupted, TrainingFailed, UserError
from moco.files import read_json, write_json
from moco.results import LinearResult
from moco.runs.listing import disk_bytes, list_runs, run_row


def copied(run: moco.Run, place: Path) -> moco.Run:
    shutil.copytree(run.path, place)
    return moco.open_run(place)


def test_a_finished_run_in_a_line(trained: list[moco.Run], three_classes: Path) -> None:
    rows = list_runs(trained[0].path.parent)
    assert [Path(row.path).name for row in rows] == ["run-0", "run-1", "run-2"]
    row = rows[0]
    assert (row.state, row.epochs_done, row.epochs, row.data) == ("finished", 2, 2, str(three_classes))
    assert row.recipe is None and row.backbone == "timm/test_resnet"  # Python began it
    knn = [found["knn_top1"] for found in trained[0].metrics if found["knn_top1"] is not None]
    assert (row.knn_best, row.knn_last) == (max(knn), knn[-1])
    assert row.linear == LinearResult.load(trained[0].folder.linear / "result.json").val_top1
    assert row.linear_epoch == row.epochs_done
    assert row.seconds == pytest.approx(sum(found["seconds"] or 0 for found in trained[0].metrics))
    assert [found.linear for found in rows[1:]] == [None, None]


def test_the_recipe_is_that_of_the_command_line(trained: list[moco.Run], tmp_path: Path) -> None:
    run = copied(trained[1], tmp_path / "a")
    known = read_json(run.folder.environment_file, "environment")
    for words, recipe in ((["--recipe", "shapes"], "shapes"), (["--recipe=mine.yaml"], "mine.yaml"), ([], None)):
        write_json(run.folder.environment_file, {**known, "command": ["moco", "pretrain", *words]})
        assert run_row(run.path).recipe == recipe


def test_state_comes_from_the_lock_and_the_files(trained: list[moco.Run], tmp_path: Path) -> None:
    run = copied(trained[1], tmp_path / "a")
    run.folder.metrics_file.write_text("".join(run.folder.metrics_file.read_text().splitlines(True)[:-1]))
    assert run_row(run.path).state == "interrupted"
    with run.folder.locked():
        assert run_row(run.path).state == "running"
        assert run_row(run.path).epochs_done == 1
    with pytest.raises(TrainingFailed), run.folder.noting_failure():
        raise TrainingFailed("the loss is not\nfinite at step 7")
    row = run_row(run.path)
    assert (row.state, row.reason) == ("failed", "the loss is not finite at step 7")
    with pytest.raises(Interrupted), run.folder.noting_failure():  # gone on with, then stopped
        raise Interrupted("SIGTERM")
    assert run_row(run.path).state == "interrupted"
    run.folder.failure_file.write_text("")
    assert run_row(run.path).state == "failed"
    run.folder.config_file.write_text("model: {temprature: 1}")
    row = run_row(run.path)
    assert row.state == "unreadable" and "did you mean temperature" in row.reason


def test_looking_changes_nothing(trained: list[moco.Run], tmp_path: Path) -> None:
    run = copied(trained[1], tmp_path / "a")
    (run.path / ".lock").unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    list_runs(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_only_runs_of_this_program_are_found(trained: list[moco.Run], tmp_path: Path) -> None:
    copied(trained[1], tmp_path / "one" / "two" / "run")
    copied(trained[1], tmp_path / "1" / "2" / "3" / "4" / "too-deep")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.yaml").write_text("model: {backbone: resnet50}\n")
    (tmp_path / "linked").symlink_to(trained[0].path)
    assert [row.path for row in list_runs(tmp_path)] == [str(tmp_path / "one" / "two" / "run")]
    assert [row.path for row in list_runs(trained[0].path)] == [str(trained[0].path)]
    with pytest.raises(UserError, match="no folder"):
        list_runs(tmp_path / "nothing")


def test_a_file_of_several_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    once = disk_bytes(tmp_path)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    assert 100_000 <= once <= disk_bytes(tmp_path) < once + 10_000


def test_comparing_names_what_differs_and_nothing_else(trained: list[moco.Run]) -> None:
    found = {(d.where, d.name): (d.first, d.second) for d in moco.compare_runs(trained[0], trained[2])}
    assert found[("config", "model.temperature")] == (0.2, 0.1)
    assert [name for where, name in found if where == "config"] == ["model.temperature"]
    assert found[("result", "loss")] == tuple(run.metrics[-1]["loss"] for run in (trained[0], trained[2]))
    assert found[("result", "linear, validation")][1] is None
    assert not any(where == "environment" for where, _ in found)
    assert moco.compare_runs(trained[0], trained[0]) == []


def test_an_imported_runs_environment_without_data_can_be_compared(trained: list[moco.Run], tmp_path: Path) -> None:
    run = copied(trained[0], tmp_path / "imported")
    known = read_json(run.folder.environment_file, "environment")
    write_json(run.folder.environment_file, {**known, "data": None})
    named = [found.name for found in moco.compare_runs(trained[0], run) if found.where == "environment"]
    assert sorted(named) == ["data, train", "data, val"]


def test_a_damaged_environment_is_one_runs_row_and_not_the_tables_end(trained: list[moco.Run], tmp_path: Path) -> None:
    for name in ("a", "b"):
        copied(trained[1], tmp_path / name)
    (tmp_path / "a" / "environment.json").write_text("[]")
    assert [row.state for row in list_runs(tmp_path)] == ["unreadable", "finished"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_a_folder_that_cant_be_entered_is_passed_over(trained: list[moco.Run], tmp_path: Path) -> None:
    copied(trained[1], tmp_path / "a")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    try:
        assert [Path(row.path).name for row in list_runs(tmp_path)] == ["a"]
    finally:
        closed.chmod(0o700)
