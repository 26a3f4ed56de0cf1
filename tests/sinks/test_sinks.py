"""Sinks: TensorBoard's files read back, trackers offline for real, and one that fails is no end of a run."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.conftest import SMALL

import moco
from moco.cli import main
from moco.config import TRACKERS
from moco.errors import UserError
from moco.fresh_run import clear
from moco.rundir import RunDir
from moco.sinks.projector import THUMBNAIL_PX
from moco.sinks.sink import About, Several, measured, opened
from moco.tables import Row


class Kept:
    """A sink that keeps what it is told; it fails from message number `fails` on."""

    def __init__(self, fails: int = 10**9) -> None:
        self.heard: list[object] = []
        self.left = fails

    def _hear(self, message: object) -> None:
        if self.left <= 0:
            raise ConnectionError("no server\nat all")
        self.left -= 1
        self.heard.append(message)

    def write(self, row: Row) -> None:
        self._hear(dict(row))

    def step(self, step: int, values: Mapping[str, float]) -> None:
        self._hear((step, dict(values)))

    def picture(self, name: str, pixels: NDArray[np.uint8]) -> None:
        self._hear((name, pixels.shape))

    def close(self, finished: bool) -> None:
        self._hear(finished)


def tell(sink: Several) -> list[object]:
    sink.picture("views", np.zeros((2, 3, 3), np.uint8))
    sink.step(1, {"loss": 5.0})
    sink.write({"epoch": 1, "loss": 4.0})
    sink.close(True)
    return [("views", (2, 3, 3)), (1, {"loss": 5.0}), {"epoch": 1, "loss": 4.0}, True]


def test_everybody_is_told_everything() -> None:
    own, other = Kept(), Kept()
    assert tell(Several(own, [("other", other, (OSError,))])) == own.heard == other.heard


def test_a_tracker_that_fails_is_said_once_and_the_run_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    own, failing, last = Kept(), Kept(fails=1), Kept()
    told = tell(Several(own, [("failing", failing, (OSError,)), ("last", last, ())]))
    assert own.heard == last.heard == told and failing.heard == told[:1]
    said = capsys.readouterr().err
    assert said == "--log failing is left out from here on: no server at all\n"
    with pytest.raises(ConnectionError):  # what nobody said it may raise is a bug, and no silence
        tell(Several(Kept(), [("buggy", Kept(fails=0), (TimeoutError,))]))


def test_only_what_was_measured_is_told() -> None:
    row: Row = {"epoch": 2, "loss": 1.5, "knn_top1": None, "lr": float("nan"), "step": 7}
    assert measured(row) == {"loss": 1.5, "step": 7}


def test_a_name_that_there_is_none_of_and_one_that_is_not_installed(
    flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["pretrain", *SMALL, "--data", str(flat), "--out", str(tmp_path / "run")]
    assert main([*command, "--log", "wandbb"]) == 2
    assert "log is 'wandbb': did you mean wandb?" in capsys.readouterr().err
    missing = [name for name in TRACKERS if find_spec(name) is None]
    for name in missing:
        assert main([*command, "--log", name]) == 2
        assert f'pip install "momentum-contrast[{name}]"' in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def trained(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    out = tmp_path_factory.mktemp("told") / "run"
    assert main(["pretrain", *SMALL, "--data", str(labelled), "--out", str(out)]) == 0
    return RunDir.open(out)


def test_tensorboard_has_scalars_by_step_and_by_epoch_and_the_views(trained: RunDir) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained.tensorboard), size_guidance={"images": 0})
    events.Reload()
    assert {"loss", "effective_rank", "key_lag", "step/loss", "step/lr"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("step/loss")] == list(range(1, 7))
    assert [event.step for event in events.Scalars("loss")] == [1, 2]
    shown = events.Images("views")
    assert len(shown) == 1 and shown[0].width > 7 * 160


def test_the_projector_has_a_row_a_word_and_a_thumbnail_for_each_image(trained: RunDir) -> None:
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    config = text_format.Parse((trained.tensorboard / "projector_config.pbtxt").read_text(), ProjectorConfig())
    shown = config.embeddings[0]
    table = np.loadtxt(trained.tensorboard / shown.tensor_path, delimiter="\t", ndmin=2)
    assert table.shape == tuple(shown.tensor_shape) and len(table) == 10
    assert (trained.tensorboard / shown.metadata_path).read_text().split() == ["cat"] * 5 + ["dog"] * 5
    sprite = Image.open(trained.tensorboard / shown.sprite.image_path)
    assert sprite.size == (4 * THUMBNAIL_PX, 4 * THUMBNAIL_PX)
    assert list(shown.sprite.single_image_dim) == [THUMBNAIL_PX, THUMBNAIL_PX]


def test_overwriting_a_run_takes_its_projector_along(trained: RunDir, labelled: Path) -> None:
    backbone, _ = moco.load_backbone(trained.root)
    assert backbone is not None
    clear(trained)
    assert not trained.tensorboard.exists()


# Offline, for real.


@pytest.fixture(params=TRACKERS)
def tracker(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    return str(request.param)


@pytest.mark.slow
def test_a_tracker_keeps_a_run_and_goes_on_with_it_offline(tracker: str, flat: Path, tmp_path: Path) -> None:
    environment = {
        **os.environ, "WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
    }  # fmt: skip
    out = tmp_path / "run"
    begin = ["pretrain", *SMALL, "--data", str(flat), "--out", str(out), "--log", tracker]
    for words in (begin, ["pretrain", "--resume", str(out), "--train.epochs=3"]):
        done = subprocess.run(
            [sys.executable, "-m", "moco", *words], env=environment, cwd=tmp_path, capture_output=True, text=True,
            check=False, timeout=280,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "left out" not in done.stderr.replace("0 left out", "")
    losses = {row["epoch"]: row["loss"] for row in moco.open_run(out).metrics}
    {"wandb": check_wandb, "mlflow": check_mlflow, "trackio": check_trackio}[tracker](tmp_path, losses)


def check_wandb(root: Path, losses: Mapping[object, object]) -> None:
    kept = sorted((root / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(kept) == 2 and len({file.name for file in kept}) == 1  # one run's number, told in two sittings
    for file in kept:
        assert all(name in file.read_bytes() for name in (b"step/loss", b"effective_rank", b"model.temperature"))
    assert list(kept[0].parent.glob("files/media/images/views*.png"))


def check_mlflow(root: Path, losses: Mapping[object, object]) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("moco")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["model.backbone"] == "timm/test_resnet"
    told = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "loss")}
    assert told == {epoch: pytest.approx(loss) for epoch, loss in losses.items()}
    assert len(client.get_metric_history(run.info.run_id, "step/loss")) == 9
    assert [artifact.path for artifact in client.list_artifacts(run.info.run_id)] == ["views.png"]


def check_trackio(root: Path, losses: Mapping[object, object]) -> None:
    with sqlite3.connect(root / "trackio" / "moco.db") as database:
        rows = [json.loads(row[0]) for row in database.execute("SELECT metrics FROM metrics")]
        names = {row[0] for row in database.execute("SELECT run_name FROM metrics")}
    assert len(names) == 1
    assert {row["epoch"]: row["loss"] for row in rows if "epoch" in row} == pytest.approx(losses)
    assert sum("step/loss" in row for row in rows) == 9 and sum("views" in row for row in rows) == 1


def test_a_tracker_that_is_down_stops_a_beginning_and_no_resume(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def down(about: About) -> None:
        raise UserError("--log mlflow: no server")

    monkeypatch.setattr("moco.sinks.sink.check_installed", lambda log: None)
    monkeypatch.setattr("moco.sinks.mlflow_sink.open_sink", down)
    about = About("a", "1", tmp_path, {})
    with pytest.raises(UserError, match="no server"):
        opened(Kept(), "mlflow", about)
    own = Kept()
    assert tell(opened(own, "mlflow", about, begins=False)) == own.heard
    assert capsys.readouterr().err == "--log mlflow: no server: the run goes on without it\n"


@pytest.mark.parametrize("place", ["sqlite:////proc/nowhere/x.db", "sqlite:///{root}", "nosuchdatabase://here/x"])
def test_a_database_that_mlflow_cant_open_is_said_in_a_line(
    place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.format(root=tmp_path))
    with pytest.raises(UserError) as said:
        opened(Kept(), "mlflow", About("a", "1", tmp_path, {}))
    assert str(said.value).startswith("--log mlflow: ") and "\n" not in str(said.value)
