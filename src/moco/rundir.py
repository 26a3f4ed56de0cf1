"""A run directory: where each file of a run is, and whether a folder is one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from moco.config import Config, from_dict
from moco.errors import UserError
from moco.files import write_json, write_text

_OURS = (
    "config.yaml", "environment.json", "baseline.json", "metrics.csv", "checkpoints", "linear", "evaluation.json",
    "plots", "report.html", "tensorboard",
)  # fmt: skip


@dataclass(frozen=True)
class RunDir:
    """The paths of one run. `create` makes a new one, `open` finds one that is there."""

    root: Path

    @classmethod
    def create(cls, path: str | Path, overwrite: bool = False) -> RunDir:
        """A fresh run directory. Raises `UserError` if `path` holds a run and `overwrite` isn't asked for."""
        run = cls.check_free(path, overwrite)
        if run.root.exists():
            with run.locked():
                pass  # nobody is at work in what is about to be replaced
        run.clear()  # also what a run killed at its very beginning left
        try:
            run.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"can't make {path}: {error.strerror}") from error
        return run

    @classmethod
    def check_free(cls, path: str | Path, overwrite: bool = False) -> RunDir:
        """Raises `UserError` unless a run may be made at `path`; touches nothing."""
        run = cls(Path(path))
        if run.root.exists() and not run.root.is_dir():
            raise UserError(f"--out {path} is a file, give a folder")
        if run.config_file.exists():
            if not overwrite:
                raise UserError(f"{path} already holds a run: continue with --resume {path}, or --overwrite it")
        elif run.root.exists() and any(p.name not in _OURS and not p.name.startswith(".") for p in run.root.iterdir()):
            raise UserError(f"--out {path} holds other files, give a new or empty folder")
        above = next(p for p in (run.root, *run.root.absolute().parents) if p.exists())
        if not os.access(above, os.W_OK):
            raise UserError(f"can't write to {above}, give another --out")
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunDir:
        """The run at `path`. Raises `UserError` if there is none."""
        run = cls(Path(path))
        if not run.root.is_dir():
            raise UserError(f"no run at {path}: no such folder")
        if not run.config_file.is_file():
            raise UserError(f"{path} is not a run directory: it has no config.yaml")
        return run

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process. Raises `UserError` if another one is training in it.

        The kernel lets go of the lock when the process ends, however it ends.
        """
        handle = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another process is training in {self.root}: wait for it, or give another --out"
                ) from None
            yield
        finally:
            os.close(handle)

    def clear(self) -> None:
        """Remove what moco wrote here, and nothing else."""
        for name in _OURS:
            path = self.root / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def write_config(self, config: Config, environment: dict[str, Any]) -> None:
        """Store the effective configuration, and what it ran on beside it."""
        write_json(self.environment_file, environment)
        write_text(self.config_file, yaml.safe_dump(config.as_dict(), sort_keys=False))

    def read_config(self) -> Config:
        """The effective configuration of this run. Raises `UserError` if the file is damaged."""
        try:
            values = yaml.safe_load(self.config_file.read_text())
        except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.config_file} can't be read: {' '.join(str(error).split())}") from error
        return from_dict(values)

    @property
    def config_file(self) -> Path:
        return self.root / "config.yaml"

    @property
    def environment_file(self) -> Path:
        return self.root / "environment.json"

    @property
    def metrics_file(self) -> Path:
        return self.root / "metrics.csv"

    @property
    def baseline_file(self) -> Path:
        return self.root / "baseline.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def linear(self) -> Path:
        return self.root / "linear"

    @property
    def evaluation_file(self) -> Path:
        return self.root / "evaluation.json"

    @property
    def plots(self) -> Path:
        return self.root / "plots"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"
