"""Linear classification on a run's frozen backbone."""

from __future__ import annotations

import contextlib
import os
import shlex
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from moco.console import percent, say
from moco.environment import describe
from moco.errors import UserError, printable
from moco.evaluators.classifier import Classifier
from moco.evaluators.linear_cached import all_views, linear_cached
from moco.evaluators.linear_options import CachedOptions, LinearOptions, SgdOptions
from moco.evaluators.linear_sgd import linear_sgd
from moco.evaluators.proof import Proof, proven
from moco.evaluators.scores import classify
from moco.files import locked
from moco.folders import replaced
from moco.ranks import found
from moco.results import LinearResult, other_data
from moco.rundir import RunDir
from moco.runs.splits import Opened, open_splits
from moco.tables import Row, write_csv

COLUMNS = (
    "epoch", "lr", "loss", "train_top1", "val_top1", "val_loss", "held_out_top1", "held_out_loss", "seconds",
)  # fmt: skip
CLASSIFIER, METRICS, RESULT, SCORES = "classifier.pt", "metrics.csv", "result.json", "evaluation.json"


@dataclass(frozen=True)
class _Fitted:
    """weight (C, F), bias (C,), a row per epoch, and what the result says of how they were come by."""

    weight: Tensor
    bias: Tensor
    rows: list[Row]
    about: dict[str, Any]


def linear(
    run: str | os.PathLike[str],
    options: LinearOptions | None = None,
    checkpoint: str = "last",
    data: str | None = None,
    name: str | None = None,
) -> LinearResult:
    """Train a linear classifier on the frozen backbone; it, its metrics and the result go to the run's `linear/`.

    With a `name` they go to `linear-NAME/` beside it: one for each data set. The three files are of one fit at any
    moment: the folder is replaced whole, at the end. Started by torchrun or srun several processes compute the features
    in shares; the first one writes.

    Args:
        run: the run's path, or the run.
        options: the protocol and what is asked of it.
        checkpoint: `last`, `best`, or the number of an epoch whose checkpoint was kept.
        data: other labelled data than the run was trained on.
        name: of this classification; None for the run's only one, or that of its own data.

    Raises:
        UserError: options, data or checkpoint that can't be right; a classifier of other data is there; another
            process is at it in this run.
    """
    chosen = (options or LinearOptions()).chosen()
    folder = RunDir.open(run)
    place = folder.linear_called(name)
    quoted = shlex.quote(os.fspath(run))
    busy = f"another `moco linear {quoted}` is at work: wait for it"
    ranks = found()
    with contextlib.ExitStack() as held:
        if ranks.is_main:
            held.enter_context(locked(folder.root / ".linear.lock", busy))
            new = held.enter_context(replaced(place, (CLASSIFIER, METRICS, RESULT, SCORES)))
        else:
            new = Path(held.enter_context(tempfile.TemporaryDirectory()))  # what the others write is the same
        began_with = folder.identity()
        opened = open_splits(run, checkpoint, data, ranks)
        _check_replaceable(place, opened)
        started = time.perf_counter()
        with proven(opened.frozen.backbone) as proof:
            if isinstance(chosen, CachedOptions):
                fitted = _fit_cached(opened, chosen, proof)
            else:
                fitted = _fit_sgd(opened, chosen, proof, new / METRICS)
        result = _result(opened, chosen, fitted, proof, time.perf_counter() - started)
        result = replace(result, run=began_with, name=name)
        keys = ("protocol", "checkpoint", "step", "epoch", "backbone_sha256")
        about = {key: getattr(result, key) for key in keys}
        folder.check_same(began_with)
        Classifier(fitted.weight, fitted.bias, result.classes, about).save(new / CLASSIFIER)
        write_csv(new / METRICS, fitted.rows, COLUMNS)
        result.save(new / RESULT)
    return result


def _check_replaceable(place: Path, opened: Opened) -> None:
    """Raises `UserError` where the classifier in `place` is of other data: it isn't this one's to replace."""
    if not (place / RESULT).is_file():
        return
    earlier = LinearResult.load(place / RESULT)
    if earlier.data != opened.data and other_data(earlier.data_sha256, opened.data_sha256):
        kept = f"{place} holds the classifier of {printable(str(earlier.data))}"
        raise UserError(f"{kept}: give this one a --name, or remove that folder")


def _fit_cached(opened: Opened, options: CachedOptions, proof: Proof) -> _Fitted:
    frozen, train = opened.frozen, opened.train
    fitted = linear_cached(all_views(frozen, train, options), options, frozen.runtime, proof)
    rows = fitted.rows
    rows[-1] |= _validation(opened, fitted.weight, fitted.bias)  # once, after everything was decided
    about = {
        "options": asdict(fitted.options), "lr": fitted.lr, "weight_decay": fitted.weight_decay,
        "held_out_top1": fitted.held_out_top1, "held_out_images": fitted.held_out_images, "grid": fitted.grid,
    }  # fmt: skip
    return _Fitted(fitted.weight, fitted.bias, rows, about)


def _fit_sgd(opened: Opened, options: SgdOptions, proof: Proof, metrics: Path) -> _Fitted:
    def report(rows: list[Row]) -> None:
        write_csv(metrics, rows, COLUMNS)
        row = rows[-1]
        scores = f"top-1 {percent(row['train_top1'])} train, {percent(row['val_top1'])} val"
        say(f"epoch {row['epoch']}/{options.epochs}  lr {row['lr']:.3g}  loss {row['loss']:.3f}  {scores}")

    fitted = linear_sgd(opened.frozen, opened.train, opened.val, options, proof, report)
    best = max(fitted.rows, key=lambda row: row["val_top1"] or 0.0)
    about = {
        "options": asdict(options), "lr": fitted.lr, "weight_decay": options.weight_decay,
        "best_on_validation_top1": best["val_top1"], "best_on_validation_epoch": best["epoch"],
    }  # fmt: skip
    return _Fitted(fitted.weight, fitted.bias, fitted.rows, about)


def _validation(opened: Opened, weight: Tensor, bias: Tensor) -> Row:
    classifier = Classifier(weight, bias, opened.val.classes, {})
    scores = classify(opened.frozen, classifier, opened.val, "features, validation")
    return {"val_top1": scores.top1, "val_loss": scores.loss}


def _result(
    opened: Opened, options: CachedOptions | SgdOptions, fitted: _Fitted, proof: Proof, seconds: float
) -> LinearResult:
    last: dict[str, Any] = {name: fitted.rows[-1][name] for name in ("loss", "train_top1", "val_top1", "val_loss")}
    return LinearResult(
        protocol="cached" if isinstance(options, CachedOptions) else "sgd",
        checkpoint=opened.checkpoint,
        step=opened.step,
        epoch=opened.epoch,
        backbone_sha256=proof.backbone_sha256,
        train_images=len(opened.train),
        val_images=len(opened.val),
        classes=opened.train.classes,
        data=opened.data,
        data_sha256=opened.data_sha256,
        seconds=seconds,
        proof=proof.as_dict(),
        environment=describe(),
        **last,
        **fitted.about,
    )
