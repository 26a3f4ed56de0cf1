"""The loop: epochs of steps, a row of metrics each, checkpoints, and a clean stop."""

from __future__ import annotations

import contextlib
import math
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import torch

from moco import checkpoint
from moco.console import Bar, progress, say
from moco.errors import Interrupted, TrainingFailed
from moco.rundir import RunDir
from moco.runtime import Runtime
from moco.sinks.sink import Sink
from moco.sinks.tensorboard_sink import TensorBoard
from moco.tables import Row, write_csv
from moco.train.interrupt import StopSignals
from moco.train.metrics import PRETRAINING, Account, score_words
from moco.train.neighbours import Neighbours
from moco.train.pace import Pace
from moco.train.steps import StepLog
from moco.train.training import Training

Evaluator = Callable[[], Iterable[tuple[str, float]]]
REFRESH_S = 0.5  # the progress bar's interval; each refresh is a host sync
SETTLE_S = 2.0  # in which several processes may hear of one signal twice
LOOK, DUE, SAVE, STOP = 1, 2, 4, 8  # what may happen between two steps, as bits: all processes do the same


@dataclass(frozen=True)
class Monitors:
    """What is measured at an epoch's end.

    Attributes:
        evaluators: every one is asked each `every_epochs` and after the last; yields (column, value).
        every_epochs: their interval.
        health: asked each epoch; yields (column, value).
        diagnose: the rows so far -> (how it goes, in a word or two; a sentence if something is wrong).
        best_by: the column whose best checkpoint is kept.
        account: how the training tells of itself.
        sink: opens who else is told of it.
    """

    evaluators: list[Evaluator] = field(default_factory=list)
    every_epochs: int = 1
    health: Evaluator = lambda: ()
    diagnose: Callable[[list[Row]], tuple[str, str | None]] = lambda rows: ("", None)
    best_by: str = "knn_top1"
    account: Account = PRETRAINING
    sink: Callable[[RunDir], Sink] = lambda run: TensorBoard(run.tensorboard)


class Loop:
    """One run in its directory, from wherever `training` stands to the end.

    `about` has versions, hardware and data fingerprints; it is stored in each checkpoint. Of several processes all
    train, the first one alone writes, and what a clock or a signal says is told to all.
    """

    def __init__(
        self, run: RunDir, training: Training, runtime: Runtime, monitors: Monitors, about: dict[str, Any]
    ) -> None:
        self.run, self.training, self.runtime, self.monitors, self.about = run, training, runtime, monitors, about
        self.pace = Pace(training.config.checkpoint)
        self.signals = StopSignals(SETTLE_S if runtime.ranks.world > 1 else 0.0)
        self.neighbours = Neighbours()
        self._sink: Sink | None = None
        self._finished = False
        self._said: str | None = None
        self._verdict = ""

    @contextlib.contextmanager
    def telling(self) -> Iterator[Loop]:
        """Whoever is told of the run beside its own files, from here on. Raises `UserError` where one can't be."""
        if self.runtime.is_main:
            self._sink = self.monitors.sink(self.run)
        try:
            yield self
        finally:
            if self._sink is not None:
                self._sink.close(self._finished)

    def train(self) -> None:
        """Run to the last epoch; within `telling` others hear of it.

        Raises `Interrupted` after a stop signal, `TrainingFailed` on a bad loss.
        """
        training = self.training
        file = self.run.steps_file if self.runtime.is_main else None
        log = StepLog(file, self._sink, self.monitors.account.top1)
        log.begin(training.progress.step)
        self._verdict = self.monitors.diagnose(training.progress.rows)[0]
        try:
            with self.signals:
                if training.row_is_due:
                    self._finish_epoch()
                while training.progress.step < training.steps:
                    self._epoch(log)
                    self._finish_epoch()
        except TrainingFailed as failure:
            kept = checkpoint.numbered(self.run.checkpoints)
            name = kept[0] if kept else "none yet"
            raise TrainingFailed(f"{failure}; the last finite checkpoint is {name}") from failure
        self._finished = True

    def _epoch(self, log: StepLog) -> None:
        training, done = self.training, self.training.progress
        epoch, epochs = training.epoch, training.config.epochs
        order = training.sampler.order(epoch)
        first = done.step - epoch * training.sampler.steps_per_epoch
        training.model.train()
        started = refreshed = time.perf_counter()
        before, begun = done.seconds, done.step
        with progress(f"epoch {epoch + 1}/{epochs}", len(order), "samples/s") as bar:
            for images, following in zip(order[first:], [*order[first + 1 :], None]):
                if following is not None:
                    training.ahead(following)
                begun_at = time.perf_counter()
                stats = training.step(images)
                log.add(done.step, epoch + 1, training.optimizer.param_groups[0]["lr"], stats)
                now = time.perf_counter()
                if self.runtime.device.type == "cpu" and (slow := self.neighbours.step(now - begun_at, training.side)):
                    say(slow)
                done.seconds = before + now - started
                wishes = self._wishes(now - refreshed > REFRESH_S)
                if wishes & LOOK:
                    training.guard.check()
                    log.flush()
                    refreshed = now
                    self._show(bar, epoch, done.step - begun, now - started, log.loss)
                self._between_steps(wishes, log)
        self.runtime.synchronize()
        training.guard.check()
        log.flush()
        done.seconds = before + time.perf_counter() - started

    def _show(self, bar: Bar, epoch: int, steps: int, seconds: float, loss: float) -> None:
        training, best_by = self.training, self.monitors.best_by
        rate = steps * training.sampler.batch_size / seconds
        end = timedelta(seconds=round((training.steps - training.progress.step) * seconds / steps))
        score = next((row[best_by] for row in reversed(training.progress.rows) if row.get(best_by) is not None), None)
        told = (
            f"epoch {epoch + 1}/{training.config.epochs}",
            f"loss {loss:.3f}",
            score_words(best_by, score),
            self._verdict,
        )
        title = ", ".join(filter(None, (*told, f"ends in {end}")))
        bar.update(training.progress.step - epoch * training.sampler.steps_per_epoch, title, f"{rate:,.0f}")

    def _wishes(self, look: bool) -> int:
        """What is to happen now, the same in all processes: signals of any of them, and the first one's clock."""
        signals = self.signals
        wishes = STOP * (signals.stop is not None) | SAVE * signals.save
        if self.runtime.is_main:
            wishes |= LOOK * look | DUE * self.pace.due_between_steps()
        wishes = self.runtime.any(wishes)
        if wishes & STOP:
            signals.hear("a signal to another process of the run")
        return wishes

    def _between_steps(self, wishes: int, log: StepLog) -> None:
        """Obey signals and the clock; nothing else happens between two steps."""
        if not wishes & (STOP | SAVE | DUE):
            return
        if self.training.progress.step % self.training.sampler.steps_per_epoch == 0:
            return  # the epoch's end saves, and stops, with its row
        self.training.guard.check()
        log.flush()
        self.save()
        self._obeyed(self.signals.stop if wishes & STOP else None, bool(wishes & SAVE))

    def _obeyed(self, stop: str | None, asked: bool) -> None:
        """What the signals asked for was saved. Raises `Interrupted` if they asked for an end."""
        if asked:
            self.signals.save = False
        if stop:
            self.runtime.barrier()  # whoever ends first may take the others along: the first process has saved by now
            raise Interrupted(
                f"{stop}: stopped and saved at step {self.training.progress.step}; "
                f"go on with: {self.monitors.account.resume} {shlex.quote(str(self.run.root))}"
            )

    def _stop_while_measuring(self) -> None:
        """Obey a signal within the monitors, which may take long: the epoch's row is made when the run goes on."""
        wishes = self._wishes(False)
        if wishes & STOP:
            self.save()
            self._obeyed(self.signals.stop, bool(wishes & SAVE))

    def _finish_epoch(self) -> None:
        done, epochs = self.training.progress, self.training.config.epochs
        self._check_alike()
        row = self._row()
        epoch = len(done.rows) + 1
        last = epoch == epochs
        if last or epoch % self.monitors.every_epochs == 0:
            with self.runtime.looking_up(self._stop_while_measuring):
                for evaluator in self.monitors.evaluators:
                    row.update(evaluator())
        done.rows.append(row)
        value = row.get(self.monitors.best_by)
        best = value is not None and (done.best is None or value > done.best)
        if best:
            done.best, done.best_epoch = value, epoch
        if self.runtime.is_main:
            write_csv(self.run.metrics_file, done.rows, self.monitors.account.columns)
        if self._sink is not None:
            self._sink.write(row)
        say(self.monitors.account.line(row, epochs))
        self._verdict, sentence = self.monitors.diagnose(done.rows)
        if sentence is not None and sentence != self._said:
            say(sentence)  # once, not every epoch that it holds
        self._said = sentence
        self.training.totals.forget()
        done.seconds = 0.0
        wishes = self._wishes(False)  # looked at once: what is obeyed below is what was saved for
        stop, asked = self.signals.stop if wishes & STOP else None, bool(wishes & SAVE)
        keep = self.pace.keeps(epoch)
        if best or last or stop or asked or keep or self.pace.due_after(epoch):
            self.save(best, epoch if keep else None)
            self._obeyed(None if last else stop, asked)

    def _row(self) -> Row:
        training, done = self.training, self.training.progress
        per_epoch, batch = training.sampler.steps_per_epoch, training.sampler.batch_size
        means = training.totals.means(per_epoch)
        epoch = len(done.rows) + 1
        if not math.isfinite(means["loss"]):
            raise TrainingFailed(f"the mean loss of epoch {epoch} is not finite")
        row: Row = {
            "epoch": epoch,
            "step": done.step,
            "samples": done.step * batch,
            "seconds": done.seconds,
            "samples_per_s": per_epoch * batch / max(done.seconds, 1e-9),
            "lr": training.optimizer.param_groups[0]["lr"],
            "loss": means["loss"],
        }
        row.update(self.monitors.account.of_epoch(means, training.config))
        row.update(self.monitors.health())
        return row

    def _check_alike(self) -> None:
        """Several processes must hold the same weights and keys. Raises `TrainingFailed` naming those that don't."""
        if self.runtime.ranks.world == 1:
            return
        held = [*self.training.model.parameters(), *self.training.model.buffers()]
        bits = sum(t.detach().view(torch.int32).sum(dtype=torch.int64) for t in held if t.dtype == torch.float32)
        if others := self.runtime.differing(int(bits)):
            raise TrainingFailed(f"ranks {others} hold other weights or keys than rank 0: is their hardware the same?")

    def save(self, best: bool = False, keep_epoch: int | None = None) -> None:
        """Write a checkpoint of exactly this moment; `keep_epoch` is the number under which it stays for good."""
        if not self.runtime.is_main:
            return
        training = self.training
        training.guard.check_weights()
        content = {
            **training.state_dict(), "config": training.config.as_dict(), "about": self.about,
            "step": training.progress.step,
        }  # fmt: skip
        whole = cast(checkpoint.Content, content)
        keep = training.config.checkpoint.keep
        self.pace.saving(lambda: checkpoint.save(self.run.checkpoints, whole, keep, best, keep_epoch))
        self.run.note_saved()
