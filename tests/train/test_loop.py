"""The loop and the training without files of images: a line that learns, and the run directory that it leaves."""

from __future__ import annotations

import contextlib
import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moco import checkpoint
from moco.config import CheckpointConfig, Config, OptimizerConfig, RuntimeConfig, ScheduleConfig, TrainConfig
from moco.data.sampler import Batch, Sampler
from moco.errors import Interrupted, TrainingFailed, UserError
from moco.fresh_run import created
from moco.rundir import RunDir
from moco.runtime import Runtime
from moco.train.guard import FiniteGuard
from moco.train.loop import Loop, Monitors
from moco.train.metrics import Account
from moco.train.optimizer import build_optimizer
from moco.train.pace import Pace
from moco.train.step import StepStats
from moco.train.training import Training

CONFIG = Config(
    optimizer=OptimizerConfig(lr=0.1, momentum=0.0, weight_decay=0.0),
    schedule=ScheduleConfig(per="step"),
    train=TrainConfig(epochs=3, batch_size=4),
    checkpoint=CheckpointConfig(every_epochs=1, every_minutes=0),
    runtime=RuntimeConfig(device="cpu", precision="float32"),
)


class Numbers:
    """Views that are the image numbers themselves."""

    def __init__(self) -> None:
        self.coming: list[list[int]] = []

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        return (torch.from_numpy(batch.images).float()[:, None] / 10,)

    def ahead(self, batch: Batch) -> None:
        self.coming.append(batch.images.tolist())


def training(config: Config = CONFIG, poison: int | None = None) -> Training:
    """Fits y = x by one weight, 12 numbers, 3 steps an epoch; the loss of step `poison` is not a number."""
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    optimizer = build_optimizer(model, config.optimizer)
    guard = FiniteGuard(optimizer, torch.device("cpu"))

    def step(views: tuple[Tensor, ...], batch: Batch) -> StepStats:
        loss = (model(views[0]) - views[0]).pow(2).mean() * (float("nan") if batch.step == poison else 1)
        guard(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        zero = torch.zeros(())
        return StepStats(loss.detach(), zero + batch.step, zero, zero)

    return Training(config, model, optimizer, Sampler(12, 4, 0), Numbers(), step, guard)


def loop(folder: RunDir, made: Training, **monitors: Any) -> Loop:
    return Loop(folder, made, Runtime(made.config.runtime), Monitors(**monitors), {"data": {}})


def weights(made: Training) -> list[Tensor]:
    return [p.detach().clone() for p in made.model.parameters()]


def test_a_run_from_the_first_step_to_the_last(tmp_path: Path) -> None:
    made = training()
    with created(tmp_path / "run") as folder:
        loop(folder, made, evaluators=[lambda: [("knn_top1", 0.5)]], every_epochs=2).train()
    rows = list(csv.DictReader(folder.metrics_file.read_text().splitlines()))
    assert [row["step"] for row in rows] == ["3", "6", "9"]
    assert [row["contrast_top1"] for row in rows] == ["1", "4", "7"]  # the means of the steps' own numbers
    assert [row["knn_top1"] for row in rows] == ["", "0.5", "0.5"]
    assert float(rows[2]["loss"]) < float(rows[0]["loss"])
    steps = list(csv.DictReader(folder.steps_file.read_text().splitlines()))
    assert [row["contrast_top1"] for row in steps] == [str(n) for n in range(9)]
    order = [batch.tolist() for epoch in range(3) for batch in made.sampler.order(epoch)]
    assert made.views.coming == [b for i, b in enumerate(order) if i % 3]  # type: ignore[attr-defined]


def test_another_kind_of_training_tells_of_itself_in_its_own_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    account = Account(
        ("epoch", "right"), lambda means, config: {"right": means["top1"]}, lambda row, n: f"right {row['right']}/{n}",
        "right", "moco other --resume",
    )  # fmt: skip
    made = training()
    with created(tmp_path / "run") as folder:
        loop(folder, made, account=account).train()
        again = loop(folder, training(), account=account)
        again.signals.stop = "SIGINT"
        with pytest.raises(Interrupted, match="go on with: moco other --resume"):
            again.train()
    assert "right 7.0/3" in capsys.readouterr().err
    assert folder.metrics_file.read_text().startswith("epoch,right,step,")
    assert folder.steps_file.read_text().startswith("step,epoch,lr,loss,right\n")


def test_state_dict_and_back_is_the_same_to_the_bit() -> None:
    whole, first, second = training(), training(), training()
    batches = [batch for epoch in range(3) for batch in whole.sampler.order(epoch)]
    for batch in batches:
        whole.step(batch)
    for batch in batches[:4]:
        first.step(batch)
    second.load_state_dict(first.state_dict())
    assert second.progress.step == 4
    for batch in batches[4:]:
        second.step(batch)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(second)))
    assert torch.equal(whole.totals.state_dict(), second.totals.state_dict())


def test_learning_counts_nothing() -> None:
    made = training()
    batch = made.batch(np.arange(4))
    made.learn(made.views(batch), batch)
    assert made.progress.step == 0
    assert made.totals.means(1)["loss"] == 0


def test_another_models_state_is_refused() -> None:
    made = training()
    content = made.state_dict()
    content["model"] = {"weight": torch.zeros(2, 2)}
    with pytest.raises(UserError, match="another architecture"):
        made.load_state_dict(content)


def test_a_stop_saves_this_very_moment_and_the_rest_follows(tmp_path: Path) -> None:
    whole = training()
    with created(tmp_path / "whole") as folder:
        loop(folder, whole).train()
    begun = training()
    with created(tmp_path / "run") as folder:
        running = loop(folder, begun)
        inner = begun.train_step

        def stopping(views: tuple[Tensor, ...], batch: Batch) -> StepStats:
            running.signals.stop = "SIGTERM" if batch.step == 4 else None
            return inner(views, batch)

        begun.train_step = stopping
        with pytest.raises(Interrupted, match="stopped and saved at step 5"):
            running.train()
    found = checkpoint.newest(folder.checkpoints)
    assert found is not None and found.content["step"] == 5
    rest = training()
    rest.load_state_dict(dict(found.content))
    loop(folder, rest).train()
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(rest)))
    assert folder.steps_file.read_text() == (tmp_path / "whole" / "steps.csv").read_text()


def test_a_stop_while_it_is_measured_is_obeyed_and_the_row_comes_when_the_run_goes_on(tmp_path: Path) -> None:
    def measuring(running: Loop, stop_in_epoch: int | None) -> list[tuple[str, float]]:
        if len(running.training.progress.rows) + 1 == stop_in_epoch:
            running.signals.stop = "SIGTERM"
        running.runtime.between_batches()
        return [("knn_top1", running.training.progress.step / 10)]

    def run(folder: RunDir, made: Training, stop_in_epoch: int | None = None) -> list[dict[str, str]]:
        one = loop(folder, made, evaluators=[lambda: measuring(one, stop_in_epoch)])
        one.train()
        table = csv.DictReader(folder.metrics_file.read_text().splitlines())
        return [{k: v for k, v in row.items() if k not in ("seconds", "samples_per_s")} for row in table]

    whole = training()
    with created(tmp_path / "whole") as folder:
        rows = run(folder, whole)
    for epoch in (2, 3):  # in the middle, and in the last
        with created(tmp_path / f"run{epoch}") as folder:
            with pytest.raises(Interrupted, match=f"stopped and saved at step {3 * epoch}"):
                run(folder, training(), epoch)
            found = checkpoint.newest(folder.checkpoints)
            assert found is not None and found.content["step"] == 3 * epoch
            assert len(found.content["state"]["rows"]) == epoch - 1
            rest = training()
            rest.load_state_dict(dict(found.content))
            assert rest.row_is_due
            assert run(folder, rest) == rows
        assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(rest)))
        assert folder.steps_file.read_text() == (tmp_path / "whole" / "steps.csv").read_text()


def test_whoever_is_told_hears_whether_it_came_to_its_end(tmp_path: Path) -> None:
    ends: list[bool] = []

    class Ear:
        def write(self, row: object) -> None: ...
        def step(self, step: int, values: object) -> None: ...
        def picture(self, name: str, pixels: object) -> None: ...
        def close(self, finished: bool) -> None:
            ends.append(finished)

    def broken() -> list[tuple[str, float]]:
        raise MemoryError

    for evaluators in ([], [broken]):
        with created(tmp_path / f"run{len(ends)}") as folder:
            made = loop(folder, training(), evaluators=evaluators, every_epochs=3, sink=lambda run: Ear())
            with contextlib.suppress(MemoryError), made.telling():
                made.train()
    assert ends == [True, False]  # the second had done all its steps


def test_a_loss_that_is_no_number_names_its_step_and_what_is_kept(tmp_path: Path) -> None:
    with created(tmp_path / "run") as folder, pytest.raises(TrainingFailed, match=r"step 5 .*step-00000003\.pt"):
        loop(folder, training(poison=4)).train()


def test_a_sentence_is_said_once_while_it_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with created(tmp_path / "run") as folder:
        loop(folder, training(), diagnose=lambda rows: ("ill", "it is not well")).train()
    assert capsys.readouterr().err.count("it is not well") == 1


def test_the_pace_by_the_clock_and_by_the_configuration() -> None:
    now = [0.0]
    pace = Pace(CheckpointConfig(every_minutes=1), clock=lambda: now[0])
    assert not pace.due_between_steps()
    assert not pace.due_after(1)  # nothing was saved yet, and no time has passed
    now[0] = 61
    assert pace.due_between_steps() and pace.due_after(1)
    pace.saving(lambda: now.__setitem__(0, 71.0))  # ten seconds: the next epoch's end is worth it after 200
    now[0] = 200
    assert not pace.due_after(2)
    now[0] = 272
    assert pace.due_after(2)
    asked = Pace(CheckpointConfig(every_epochs=2, every_minutes=0, keep_every_epochs=3), clock=lambda: 1e9)
    assert [asked.due_after(epoch) for epoch in (1, 2, 3, 4)] == [False, True, False, True]
    assert [asked.keeps(epoch) for epoch in (1, 2, 3, 6)] == [False, False, True, True]
    assert not asked.due_between_steps()
