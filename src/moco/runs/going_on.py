"""What a training that is gone on with begins at, and what of its options may be others then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from moco import checkpoint
from moco.config import Config, from_dict
from moco.config_check import flat
from moco.errors import UserError
from moco.rundir import RunDir

# What a resumed run may change: the rest is what the run is.
MAY_CHANGE = (
    "data",
    "log",
    "train.epochs",
    "train.accumulate",
    "checkpoint.",
    "monitor.",
    "runtime.",
    "store.cache",
    "store.max_bad",
    "store.remote_gb",
)


def to_go_on_from(folder: RunDir) -> checkpoint.Found | None:
    """The checkpoint that a resumed run starts at; None for a run that was killed before its first.

    Raises `UserError` where something was trained and no checkpoint of it can be used: going on would overwrite it.
    """
    wayout = f"restore one from a copy, or begin anew with another --out; nothing in {folder.root} was changed"
    try:
        found = checkpoint.newest(folder.checkpoints)
    except UserError as error:
        raise UserError(f"{error}; {wayout}") from error
    if found is None and folder.metrics_file.exists() and folder.has_saved():
        raise UserError(f"{folder.root} has metrics.csv but no checkpoint: {wayout}")
    return found


def mend_best(folder: RunDir, found: checkpoint.Found, steps_per_epoch: int) -> None:
    """Point `best.pt` at the checkpoint that its own state calls the best: a kill can fall between the two files."""
    state = found.content["state"]
    if state["best_epoch"] is not None and state["best_epoch"] * steps_per_epoch == found.content["step"]:
        checkpoint.point_best(folder.checkpoints, found.path)


def what_changed(about: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What changes bits between the records of two beginnings, in phrases; empty where nothing does."""
    words = [
        f"{what} {about[key]}, now {now[key]}"
        for key, what in (
            ("precision", "in"),
            ("processor", "on"),
            ("gpus", "with GPUs"),
            ("arithmetic", "computing"),
            ("compile", "with runtime.compile"),
        )
        if key in about and _alike(about[key]) != _alike(now[key])
    ]
    before, after = about.get("versions", {}), now["versions"]
    words += [f"with {name} {before[name]}, now {after[name]}" for name in before if before[name] != after.get(name)]
    return words


def _alike(value: Any) -> Any:
    """Without order and repetition: runs of before listed every GPU of the machine."""
    return set(value) if isinstance(value, list) else value


def forbidden_changes(saved: Config, asked: Config) -> list[str]:
    """What of a run's configuration is asked to change and may not, in phrases."""
    before, after = flat(with_format(saved, "raw")), flat(with_format(asked, "raw"))
    return [
        f"{name} was {before[name]}, now {after[name]}"
        for name in before
        if before[name] != after[name] and not name.startswith(MAY_CHANGE)
    ]


def check_config(folder: RunDir, content: checkpoint.Content, config: Config) -> None:
    """Raise `UserError` unless the run's configuration file says what the checkpoint that is opened was made with."""
    if changes := forbidden_changes(from_dict(content["config"]), config):
        raise UserError(f"{folder.config_file} was edited: in its checkpoint {'; '.join(changes)}: put it back")


def with_format(config: Config, decided: str) -> Config:
    """`config` with the store's format where it leaves that open: what a run decided is never decided again."""
    if config.store.format != "auto":
        return config
    return replace(config, store=replace(config.store, format=decided))  # type: ignore[arg-type]
