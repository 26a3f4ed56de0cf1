"""A run opened for evaluation: its frozen backbone, and both splits of its data, or of other data, with labels."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import Any

from moco.errors import UserError, printable
from moco.evaluators.frozen import Frozen, Labelled
from moco.ranks import ALONE, Ranks
from moco.runs.trained import TrainedRun, labelled, open_trained


@dataclass(frozen=True)
class Opened:
    """What linear classification and evaluation need.

    Attributes:
        frozen: the backbone, with its view.
        train, val: the splits.
        data: where they are from: an absolute path, or the name of a built-in set.
        data_sha256: fingerprint of each split.
        ranges: what became black and white in images of more than 8 bits, by kind.
        checkpoint, step, epoch: the backbone's.
    """

    frozen: Frozen
    train: Labelled
    val: Labelled
    data: str
    data_sha256: dict[str, str]
    ranges: dict[str, Any]
    checkpoint: str
    step: int
    epoch: int


def open_splits(run: str | os.PathLike[str], checkpoint: str, data: str | None, ranks: Ranks = ALONE) -> Opened:
    """Open `run` with its `checkpoint`, and its own data or `data`; `ranks` is this process's place.

    A line says so where the run's own images are not those that it was trained on. Raises `UserError` where there is
    nothing to classify, naming the data that lacks it.
    """
    data = None if data is None else os.fspath(data)
    trained = open_trained(run, checkpoint, data, ranks)
    train, val = _splits(trained, run, data)
    frozen, found = trained.frozen, trained.data
    return Opened(
        frozen, train, val, found.source, found.fingerprints, found.ranges, checkpoint, trained.step, trained.epoch
    )


def _splits(trained: TrainedRun, run: str | os.PathLike[str], data: str | None) -> tuple[Labelled, Labelled]:
    found, device = trained.data, trained.frozen.runtime.device
    if found.val is None:
        own = f"the data of the run {shlex.quote(os.fspath(run))}, {printable(found.source)},"
        named = f"--data {shlex.quote(data)}" if data else own
        other = "give" if data else "give --data with"
        raise UserError(f"{named} {found.no_val}: {other} class folders, and images held out or in val/")
    return labelled(found.train, device), labelled(found.val, device)
