"""The loop: epochs of steps, a row of metrics each, checkpoints, and a clean stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco import checkpoint
from moco.config import Config
from moco.console import progress_bar, say
from moco.data.sampler import Sampler
from moco.errors import Interrupted, TrainingFailed
from moco.model.moco import MoCo
from moco.randomness import Purpose, permutation, torch_seed
from moco.rundir import RunDir
from moco.runtime import Runtime
from moco.train.guard import FiniteGuard
from moco.train.interrupt import StopSignals
from moco.train.metrics import Row, TensorBoard, epoch_line, write_csv
from moco.train.optimizer import set_lr
from moco.train.schedule import learning_rate
from moco.train.state import TrainState, checkpoint_content
from moco.train.step import StepStats, train_step

Evaluator = Callable[[], Iterable[tuple[str, float]]]
MakeViews = Callable[[NDArray[np.int64], int], tuple[Tensor, Tensor]]
SAVING_SHARE = 0.05  # of the time, where checkpoint.every_epochs leaves it open
REFRESH_S = 0.5  # the progress bar's interval; each refresh is a host sync


@dataclass
class Loop:
    """One pre-training run, from wherever `state` stands to the end.

    Attributes:
        views: (image numbers, epoch) -> the two views of the batch.
        ahead: told the next batch's image numbers while this one is trained on, so that they can be read.
        evaluators: every one is asked each `monitor_every` epochs and after the last; yields (column, value).
        health: asked each epoch; yields (column, value).
        diagnose: a row -> one sentence if it says that something is wrong.
        monitor: the column whose best checkpoint is kept.
        about: versions, hardware and data fingerprints, stored in each checkpoint.
    """

    config: Config
    run: RunDir
    runtime: Runtime
    model: MoCo
    optimizer: torch.optim.Optimizer
    sampler: Sampler
    views: MakeViews
    ahead: Callable[[NDArray[np.int64]], None]
    state: TrainState
    evaluators: list[Evaluator]
    monitor_every: int
    health: Evaluator
    diagnose: Callable[[Row], str | None]
    monitor: str
    about: dict[str, object]

    def __post_init__(self) -> None:
        self.guard = FiniteGuard(self.optimizer, self.runtime.device)
        self.signals = StopSignals()
        self.saved_at = time.monotonic()
        self.save_s = 0.0
        self.said: str | None = None

    def train(self) -> None:
        """Run to the last epoch. Raises `Interrupted` after a stop signal, `TrainingFailed` on a bad loss."""
        tensorboard = TensorBoard(self.run.tensorboard)
        try:
            with self.signals:
                while self.state.step < self.config.train.epochs * self.sampler.steps_per_epoch:
                    epoch = self.state.step // self.sampler.steps_per_epoch
                    self._epoch(epoch)
                    self._finish_epoch(epoch, tensorboard)
        except TrainingFailed as failure:
            kept = checkpoint.numbered(self.run.checkpoints)
            name = kept[0] if kept else "none yet"
            raise TrainingFailed(f"{failure}; the last finite checkpoint is {name}") from failure
        finally:
            tensorboard.close()

    def _epoch(self, epoch: int) -> None:
        order = self.sampler.order(epoch)
        first = self.state.step - epoch * self.sampler.steps_per_epoch
        self.model.train()
        started = refreshed = time.perf_counter()
        before, begun = self.state.seconds, self.state.step
        with progress_bar("samples/s") as bar:
            task = bar.add_task(
                f"epoch {epoch + 1}/{self.config.train.epochs}", total=len(order), rate="", completed=first
            )
            for images, following in zip(order[first:], [*order[first + 1 :], None]):
                if following is not None:
                    self.ahead(following)
                self._step(images, epoch)
                now = time.perf_counter()
                self.state.seconds = before + now - started
                if now - refreshed > REFRESH_S:
                    self.guard.check()
                    refreshed = now
                    done = self.state.step - begun
                    rate = done * self.sampler.batch_size / (now - started)
                    steps_left = self.config.train.epochs * self.sampler.steps_per_epoch - self.state.step
                    end = timedelta(seconds=round(steps_left * (now - started) / done))
                    title = f"epoch {epoch + 1}/{self.config.train.epochs}, run ends in {end}"
                    bar.update(task, description=title, completed=first + done, rate=f"{rate:,.0f}")
                self._between_steps()
        self.runtime.synchronize()
        self.guard.check()
        self.state.seconds = before + time.perf_counter() - started

    def _step(self, images: NDArray[np.int64], epoch: int) -> None:
        config, step = self.config, self.state.step
        lr = learning_rate(
            config.schedule, config.optimizer.lr, step, self.sampler.steps_per_epoch, config.train.epochs
        )
        set_lr(self.optimizer, lr)
        self.guard.step, self.guard.lr = step, lr
        self.state.add(self._learn(self.views(images, epoch), len(images)))
        self.state.step += 1

    def _learn(self, views: tuple[Tensor, Tensor], count: int) -> StepStats:
        """The training step on two views of `count` images, with what it draws."""
        config, step = self.config, self.state.step
        self.runtime.begin_step()
        torch.manual_seed(torch_seed(config.seed, Purpose.DROPOUT, step))  # dropout: a function of the step
        key_order = None
        if config.model.bn_splits > 1:
            shuffled = permutation(count, config.seed, Purpose.BN_SHUFFLE, step)
            key_order = torch.from_numpy(shuffled).to(self.runtime.device, non_blocking=True)
        symmetric = config.model.symmetric
        return train_step(self.model, self.optimizer, self.runtime, views, key_order, symmetric, self.guard)

    def _between_steps(self) -> None:
        """Obey signals and the clock; nothing else happens between two steps."""
        minutes = self.config.checkpoint.every_minutes
        due = minutes > 0 and time.monotonic() - self.saved_at > 60 * minutes
        if not (self.signals.stop or self.signals.save or due):
            return
        if self.state.step % self.sampler.steps_per_epoch == 0:
            return  # the epoch's end saves, and stops, with its row
        self.guard.check()
        self.save()
        self.signals.save = False
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.signals.stop:
            raise Interrupted(
                f"{self.signals.stop}: stopped and saved at step {self.state.step}; "
                f"go on with: moco pretrain --resume {self.run.root}"
            )

    def _finish_epoch(self, epoch: int, tensorboard: TensorBoard) -> None:
        row = self._row(epoch)
        last = epoch + 1 == self.config.train.epochs
        if last or (epoch + 1) % self.monitor_every == 0:
            for evaluator in self.evaluators:
                row.update(evaluator())
        self.state.rows.append(row)
        value = row.get(self.monitor)
        best = value is not None and (self.state.best is None or value > self.state.best)
        if best:
            self.state.best, self.state.best_epoch = value, epoch + 1
        write_csv(self.run.metrics_file, self.state.rows)
        tensorboard.write(row)
        say(epoch_line(row, self.config.train.epochs))
        sentence = self.diagnose(row)
        if sentence is not None and sentence != self.said:
            say(sentence)  # once, not every epoch that it holds
        self.said = sentence
        self.state.new_epoch()
        asked = self.signals.stop or self.signals.save
        if best or last or asked or self._checkpoint_due(epoch):
            self.save(best)
            self.signals.save = False
        if not last:
            self._stop_if_asked()

    def _checkpoint_due(self, epoch: int) -> bool:
        every = self.config.checkpoint.every_epochs
        if every is not None:
            return (epoch + 1) % every == 0
        return time.monotonic() - self.saved_at > self.save_s / SAVING_SHARE

    def _row(self, epoch: int) -> Row:
        loss, top1, positive, negative = (self.state.sums / self.sampler.steps_per_epoch).tolist()
        if not math.isfinite(loss):
            raise TrainingFailed(f"the mean loss of epoch {epoch + 1} is not finite")
        samples = self.sampler.steps_per_epoch * self.sampler.batch_size
        row: Row = {
            "epoch": epoch + 1,
            "step": self.state.step,
            "samples": self.state.step * self.sampler.batch_size,
            "seconds": self.state.seconds,
            "samples_per_s": samples / max(self.state.seconds, 1e-9),
            "lr": self.optimizer.param_groups[0]["lr"],
            "loss": loss,
            "contrast_top1": top1,
            "loss_of_guessing": math.log(1 + self.config.model.queue_size),
            "positive_similarity": positive,
            "negative_similarity": negative,
        }
        row.update(self.health())
        return row

    def save(self, best: bool = False) -> None:
        """Write a checkpoint of exactly this moment."""
        started = time.monotonic()
        content = checkpoint_content(self.model, self.optimizer, self.state, self.config.as_dict(), self.about)
        checkpoint.save(self.run.checkpoints, content, self.state.step, self.config.checkpoint.keep, best)
        self.saved_at = time.monotonic()
        self.save_s = self.saved_at - started
