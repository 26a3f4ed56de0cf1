"""A run directory: where each file of a run is, whether a folder is one, and which run it is of."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from moco.config import Config, from_dict
from moco.config_check import check
from moco.errors import Interrupted, UserError, in_a_line
from moco.files import expanded, is_locked, locked, read_json, write_json, write_text

MARKER = ".moco-run.json"  # says that the folder is this program's, and which run it is


@dataclass(frozen=True)
class RunDir:
    """The paths of one run. `fresh_run.created` makes a new one, `open` finds one that is there."""

    root: Path

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunDir:
        """The run at `path`. Raises `UserError` if there is none."""
        run = cls(expanded(os.fspath(path), "run"))
        try:
            found, configured = run.root.is_dir(), run.config_file.is_file()
        except OSError as error:
            raise UserError(f"no run at {path}: {in_a_line(error)}") from error
        if not found:
            raise UserError(f"no run at {path}: no such folder")
        if not configured:
            kept = " (its checkpoints are kept: each holds the configuration under `config`)" if run.is_ours() else ""
            raise UserError(f"{path} is not a run directory: it has no config.yaml{kept}")
        return run

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process. Raises `UserError` if another one is at work in it."""
        busy = f"another process is training in {self.root}: wait for it, or give another --out"
        with locked(self.root / ".lock", busy):
            yield

    def is_busy(self) -> bool:
        """Whether a process is training in it at this moment."""
        return is_locked(self.root / ".lock")

    @contextlib.contextmanager
    def noting_failure(self) -> Iterator[None]:
        """What goes wrong in here is noted in `failure.json`, until the run is gone on with. Stopping is no failure."""
        self.failure_file.unlink(missing_ok=True)
        try:
            yield
        except Interrupted:
            raise
        except Exception as error:
            with contextlib.suppress(UserError):  # a full disk: it is `error` that is to be told
                write_json(self.failure_file, {"reason": in_a_line(error)})
            raise

    def is_ours(self) -> bool:
        """Whether this program made the folder: by its marker, or by the two files that runs before the marker have."""
        if (self.root / MARKER).is_file():
            return True
        try:
            written = read_json(self.environment_file, "environment")
            return "momentum-contrast" in written["versions"] and bool(self.read_config())
        except (UserError, TypeError, KeyError):
            return False

    def has_begun(self) -> bool:
        """Whether there is anything to lose: not in a folder that a run made and was killed in at once."""
        things = (self.config_file, self.finetune_file, self.metrics_file)
        return any(path.exists() for path in things) or any(self.checkpoints.glob("*.pt"))

    def identity(self) -> str | None:
        """The run's own number, hex; None for one made before there was any."""
        marker = self.root / MARKER
        if not marker.is_file():
            return None
        try:
            return str(read_json(marker, "marker")["run"])
        except (KeyError, TypeError) as error:
            raise UserError(f"marker {marker} is damaged: it doesn't say which run this is") from error

    def check_same(self, run: str | None) -> None:
        """Raise `UserError` unless this is still the run of the `identity` that work began with."""
        if self.identity() != run:
            raise UserError(f"the run in {self.root} was replaced meanwhile: nothing is written")

    def has_saved(self) -> bool:
        """Whether a checkpoint was ever written here, as far as is known: runs of before this was noted have."""
        marker = self.root / MARKER
        return not marker.is_file() or bool(read_json(marker, "marker").get("saved", True))

    def note_saved(self) -> None:
        """A checkpoint was written: from now on a run without one has lost it."""
        if not self.has_saved():
            write_json(self.root / MARKER, {**read_json(self.root / MARKER, "marker"), "saved": True})

    def write_config(self, config: Config, environment: dict[str, Any]) -> None:
        """Store the effective configuration, and what it ran on beside it."""
        write_json(self.environment_file, environment)
        write_text(self.config_file, yaml.safe_dump(config.as_dict(), sort_keys=False))

    def read_environment(self) -> dict[str, Any]:
        """What was recorded beside the configuration; empty where nothing was. Raises `UserError` if it is damaged."""
        if not self.environment_file.is_file():
            return {}
        found = read_json(self.environment_file, "environment")
        if not isinstance(found, dict):
            raise UserError(f"{self.environment_file} is damaged: it holds no names")
        return found

    def read_config(self) -> Config:
        """The effective configuration of this run. Raises `UserError` if the file is damaged or makes no sense."""
        try:
            values = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.config_file} can't be read: {in_a_line(error)}") from error
        try:
            config = from_dict(values)
            check(config)
        except UserError as error:
            raise UserError(f"{self.config_file}: {error}") from error
        return config

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
    def steps_file(self) -> Path:
        return self.root / "steps.csv"

    @property
    def baseline_file(self) -> Path:
        return self.root / "baseline.json"

    @property
    def failure_file(self) -> Path:
        return self.root / "failure.json"

    @property
    def report_file(self) -> Path:
        return self.root / "report.html"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def linear(self) -> Path:
        return self.root / "linear"

    def linear_called(self, name: str | None) -> Path:
        """The folder of a linear classification; None for the run's own. Raises `UserError` for what is no name."""
        if name is not None and not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
            raise UserError(
                f"--name {name!r}: give letters, digits, `-`, `_` and `.`, beginning with one of the first two"
            )
        return self.linear if name is None else self.root / f"linear-{name}"

    @property
    def named_linears(self) -> list[Path]:
        """The folders of this run's linear classifications that have names, by what their results say."""
        return [place for place in sorted(self.root.glob("linear-*")) if self._is_of_this_run(place)]

    def _is_of_this_run(self, named: Path) -> bool:
        """Whether a `linear-NAME` is this run's: not a copy that somebody made beside it, nor a replaced run's."""
        try:
            result = read_json(named / "result.json", "linear result")
            return (result.get("run"), f"linear-{result.get('name')}") == (self.identity(), named.name)
        except (UserError, AttributeError):  # no result of ours
            return False

    @property
    def evaluation_file(self) -> Path:
        return self.root / "evaluation.json"

    def evaluation_called(self, name: str | None) -> Path:
        """Where the scores of a linear classification are: those of a named one lie beside its classifier."""
        return self.evaluation_file if name is None else self.linear_called(name) / self.evaluation_file.name

    @property
    def labels_file(self) -> Path:
        return self.root / "labels.json"

    @property
    def finetune_file(self) -> Path:
        return self.root / "finetune.json"

    @property
    def result_file(self) -> Path:
        return self.root / "result.json"

    @property
    def plots(self) -> Path:
        return self.root / "plots"

    @property
    def export(self) -> Path:
        return self.root / "export"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"
