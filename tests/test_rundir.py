"""A run directory is proven ours before anything in it is removed, and a run is begun by one process only."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from moco.config import Config, ModelConfig
from moco.errors import UserError
from moco.fresh_run import check_free, created
from moco.rundir import MARKER, RunDir
from moco.runs.going_on import to_go_on_from


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} - {".lock"}


def begin(root: Path, overwrite: bool = False) -> RunDir:
    with created(root, overwrite) as run:
        run.write_config(Config(), {"versions": {"momentum-contrast": "0.1.0"}})
        (run.checkpoints / "step-00000001.pt").write_text("weights")
        return run


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("folder", ["checkpoints", "plots", "tensorboard", "linear"])
def test_another_programs_folder_of_the_same_name_is_left_alone(tmp_path: Path, folder: str, overwrite: bool) -> None:
    theirs = tmp_path / folder / "model.pt"
    theirs.parent.mkdir()
    theirs.write_text("theirs")
    with pytest.raises(UserError, match="holds other files"), created(tmp_path, overwrite):
        pass
    assert theirs.read_text() == "theirs"


@pytest.mark.parametrize("overwrite", [False, True])
def test_another_programs_config_is_not_a_run_of_ours(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "config.yaml").write_text("model: {backbone: resnet50}\n")  # it even reads as one
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.pt").write_text("theirs")
    with pytest.raises(UserError, match="holds other files"), created(tmp_path, overwrite):
        pass
    assert names(tmp_path) == {"config.yaml", "checkpoints/last.pt"}


def test_overwriting_removes_what_a_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    run = begin(tmp_path / "a")
    theirs = {"notes.txt", "plots/mine.png", "checkpoints/somebody.pt", "linear/table.xlsx"}
    ours = {"metrics.csv", "plots/pretrain_loss.png", "checkpoints/last.pt", "checkpoints/step-00000002.pt.damaged"}
    for name in theirs | ours:
        (run.root / name).parent.mkdir(exist_ok=True)
        (run.root / name).write_text(name)
    with created(run.root, overwrite=True):
        assert names(run.root) == theirs | {MARKER}


def test_a_run_that_lost_its_configuration_keeps_its_checkpoints(tmp_path: Path) -> None:
    run = begin(tmp_path / "a")
    run.config_file.unlink()
    with pytest.raises(UserError, match="already holds a run"), created(run.root):
        pass
    with pytest.raises(UserError, match="its checkpoints are kept"):
        RunDir.open(run.root)
    assert (run.checkpoints / "step-00000001.pt").read_text() == "weights"


def test_a_run_killed_at_its_very_beginning_can_be_begun_again(tmp_path: Path) -> None:
    with created(tmp_path / "a") as run:
        first = run.identity()
    with created(tmp_path / "a") as run:
        assert run.identity() != first


def test_a_run_from_before_the_marker_is_known_by_its_two_files(tmp_path: Path) -> None:
    run = begin(tmp_path / "a")
    (run.root / MARKER).unlink()
    assert run.is_ours()
    with created(run.root, overwrite=True):
        assert not run.config_file.exists()


def test_of_two_that_begin_one_run_the_second_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(UserError, match="another process")
    with created(tmp_path / "a"), refused, created(tmp_path / "a"):
        pass
    begin(tmp_path / "a")
    with pytest.raises(UserError, match="already holds a run"), created(tmp_path / "a"):
        pass


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000 + "b"])
def test_a_name_that_no_disk_takes_is_one_line(tmp_path: Path, name: str) -> None:
    for attempt in (check_free, RunDir.open):
        with pytest.raises(UserError, match="File name too long"):
            attempt(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_run_that_cant_be_written_is_one_line(tmp_path: Path) -> None:
    run = begin(tmp_path / "a")
    run.root.chmod(0o500)
    with pytest.raises(UserError, match="can't lock"), run.locked():
        pass


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: {temperature: hot}", r"model\.temperature is 'hot', give float"),
        ("model: {temprature: 0.2}", "unknown key model.temprature: did you mean temperature"),
        ("train: {epochs: 0}", r"train\.epochs is 0"),
        ("- 1", "must be a mapping"),
        ("model: {", "can't be read"),
    ],
)
def test_reading_a_configuration_checks_it(tmp_path: Path, text: str, said: str) -> None:
    run = begin(tmp_path / "a")
    run.config_file.write_text(text)
    with pytest.raises(UserError, match=said):
        run.read_config()


def test_a_configuration_comes_back_as_it_was(tmp_path: Path) -> None:
    run = begin(tmp_path / "a")
    config = Config(data="/data/x", model=ModelConfig(temperature=0.1))
    run.write_config(config, {"versions": {}})
    assert run.read_config() == config
    assert json.loads(run.environment_file.read_text()) == {"versions": {}}


def test_a_run_that_has_lost_its_checkpoints_is_told_from_one_that_never_had_any(tmp_path: Path) -> None:
    """A kill may fall between the first row of metrics.csv and the first checkpoint: such a run begins again."""
    with created(tmp_path / "run") as run:
        run.metrics_file.write_text("epoch\n1\n")
        assert to_go_on_from(run) is None
        run.note_saved()
        identity = run.identity()
        with pytest.raises(UserError, match=r"has metrics\.csv but no checkpoint: restore one"):
            to_go_on_from(run)
        run.note_saved()
        assert run.identity() == identity
        (run.root / MARKER).write_text('{"format": 1, "run": "of before"}')
        with pytest.raises(UserError, match="but no checkpoint"):
            to_go_on_from(run)


def test_overwriting_leaves_what_only_begins_like_a_checkpoint(tmp_path: Path) -> None:
    with created(tmp_path / "run") as run:
        theirs = [run.checkpoints / "step-9-mine.pt", run.checkpoints / "step-mine.pt/a", run.root / "linear/notes.csv"]
        ours = [run.checkpoints / "step-00000009.pt", run.checkpoints / ".last.pt.7.tmp", run.metrics_file]
        for path in (*theirs, *ours):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
    with created(tmp_path / "run", overwrite=True):
        assert all(path.exists() for path in theirs) and not any(path.exists() for path in ours)


def test_a_marker_without_a_number_is_a_line(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        RunDir(tmp_path).identity()


def test_home_is_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert begin(Path("~/runs/a")).root == tmp_path / "runs" / "a"
    assert RunDir.open("~/runs/a").root == tmp_path / "runs" / "a"
    with pytest.raises(UserError, match="--out is empty"):
        check_free("")
