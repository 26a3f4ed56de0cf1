"""Runs seen from outside: a row each, and what differs between two. No model is built and no data opened."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from moco.config import Config
from moco.config_check import flat
from moco.errors import UserError
from moco.files import read_json
from moco.results import LinearResult, other_data
from moco.rundir import RunDir
from moco.tables import Row, Value, read_csv
from moco.words import value_of

MOST_DEPTH = 3  # folders below the given one that are looked into
State = Literal["running", "finished", "interrupted", "failed", "unreadable"]


@dataclass(frozen=True)
class RunRow:
    """One run in a line.

    Attributes:
        path: its directory.
        recipe: the name that it was begun with, None where Python code began it.
        data: as it was given.
        backbone: its name.
        epochs_done, epochs: ended, and asked for; None where the configuration can't be read.
        knn_best, knn_last, linear: shares of the validation images from 0 to 1, None where not measured.
        linear_epoch: whose weights `linear` is of: the run may have been trained on since.
        seconds: of training, monitors left out.
        state: from the lock and the files. A run that was killed counts as interrupted.
        reason: why it failed, or can't be read.
        disk_bytes: what its files take, each once under however many names.
    """

    path: str
    recipe: str | None
    data: str | None
    backbone: str | None
    epochs_done: int
    epochs: int | None
    knn_best: float | None
    knn_last: float | None
    linear: float | None
    linear_epoch: int | None
    seconds: float
    state: State
    reason: str
    disk_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as `moco runs --json` prints them."""
        return asdict(self)


def list_runs(folder: str | os.PathLike[str] = "runs") -> list[RunRow]:
    """Every run in `folder`, or `folder` itself, by name; nothing is written. Raises `UserError` without such a folder.

    A run that can't be read is a row as well, with the reason.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"no folder {root}: give the one that your runs are in, `moco runs DIR`")
    return [run_row(path) for path in _found(root, MOST_DEPTH)]


def _found(folder: Path, depth: int) -> Iterator[Path]:
    """Run directories at and below `folder`; inside a run there is none, and links aren't followed."""
    run = RunDir(folder)
    try:
        if run.config_file.is_file() and run.is_ours():
            yield folder
            return
        if depth == 0:
            return
        inside = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    except PermissionError:  # another user's
        return
    for name in inside:
        if not name.startswith("."):
            yield from _found(folder / name, depth - 1)


def run_row(path: Path) -> RunRow:
    """The run at `path` in a line."""
    run, reason = RunDir(path), ""
    config: Config | None = None
    rows: list[Row] = []
    environment: Mapping[str, Any] = {}
    linear = None
    try:
        config = run.read_config()
        rows = read_csv(run.metrics_file) if run.metrics_file.is_file() else []
        environment = run.read_environment()
        result = run.linear / "result.json"
        linear = LinearResult.load(result) if result.is_file() else None
        if linear is not None and other_data(linear.data_sha256, environment.get("data")):
            linear = None  # of other data than the row tells of
    except UserError as error:
        reason = str(error)
    state: State = "unreadable"
    if config is not None and not reason:
        state, reason = state_of(run, config, rows)
    knn = [value for row in rows if (value := row.get("knn_top1")) is not None]
    return RunRow(
        path=str(path),
        recipe=_recipe(environment),
        data=environment.get("data_as_given") or (config.data if config else None),
        backbone=config.model.backbone if config else None,
        epochs_done=len(rows),
        epochs=config.train.epochs if config else None,
        knn_best=max(knn, default=None),
        knn_last=knn[-1] if knn else None,
        linear=linear.val_top1 if linear else None,
        linear_epoch=linear.epoch if linear else None,
        seconds=sum(row.get("seconds") or 0.0 for row in rows),
        state=state,
        reason=reason,
        disk_bytes=disk_bytes(path),
    )


def state_of(run: RunDir, config: Config, rows: list[Row]) -> tuple[State, str]:
    """(what a run is doing, why it failed) by its lock, its table and what it noted of its end."""
    if run.is_busy():
        return "running", ""
    if config.train.epochs is not None and len(rows) >= config.train.epochs:
        return "finished", ""
    if run.failure_file.is_file():
        try:
            return "failed", str(read_json(run.failure_file, "failure")["reason"])
        except (UserError, LookupError, TypeError):  # killed while it was written: that it failed is known
            return "failed", "failure.json doesn't say why"
    return "interrupted", ""


def _recipe(environment: Mapping[str, Any]) -> str | None:
    """The recipe on the command line that began the run."""
    return value_of("--recipe", [str(word) for word in environment.get("command", [])])


def disk_bytes(folder: Path) -> int:
    """Bytes on disk of the files in `folder`, each counted once; links aren't followed, what is gone is left out."""
    seen: dict[tuple[int, int], int] = {}
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                found = (Path(where) / name).lstat()
            except FileNotFoundError:
                continue
            seen[found.st_dev, found.st_ino] = found.st_blocks * 512 if hasattr(found, "st_blocks") else found.st_size
    return sum(seen.values())


@dataclass(frozen=True)
class Difference:
    """One thing that isn't the same in two runs; `where` is `config`, `result` or `environment`."""

    where: Literal["config", "result", "environment"]
    name: str
    first: Any
    second: Any


def compare_runs(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> list[Difference]:
    """What differs in configuration, results and environment. Raises `UserError` for a run that can't be read."""
    one, other = RunDir.open(first), RunDir.open(second)
    found = list(_differing("config", flat(one.read_config()), flat(other.read_config())))
    found += _differing("result", _results(one), _results(other))
    return found + list(_differing("environment", _surroundings(one), _surroundings(other)))


def _differing(where: Any, one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Difference]:
    for name in dict.fromkeys([*one, *other]):
        if one.get(name) != other.get(name):
            yield Difference(where, name, one.get(name), other.get(name))


def _results(run: RunDir) -> dict[str, Value | str]:
    row = run_row(run.root)
    found: dict[str, Value | str] = {"state": row.state, "epochs done": row.epochs_done, "kNN, best": row.knn_best}
    last = (read_csv(run.metrics_file) if run.metrics_file.is_file() else [{}])[-1:]
    found |= {name: value for name, value in (last[0] if last else {}).items() if name not in ("epoch",)}
    return found | {"linear, validation": row.linear}


def _surroundings(run: RunDir) -> dict[str, Any]:
    known = run.read_environment()
    if not known:
        return {}
    keep = ("python", "system", "processor", "cores", "gpus", "precision", "threads", "arithmetic", "compile", "commit")
    found = {name: known.get(name) for name in keep}
    found |= {f"version of {name}": number for name, number in (known.get("versions") or {}).items()}
    return found | {f"data, {split}": digest for split, digest in (known.get("data") or {}).items()}
