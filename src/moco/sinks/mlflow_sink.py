"""MLflow, wherever `MLFLOW_TRACKING_URI` points; without it, where mlflow puts things by itself."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.sinks.sink import About, Sink, measured, plain
from moco.tables import Row

EXPERIMENT = "moco"  # unless MLFLOW_EXPERIMENT_NAME says otherwise
TAG = "moco.run"  # the run's own number, by which a resumed run is found again
MOST_METRICS = 1000  # in one message, by mlflow's own limit


class MlflowSink:
    """A run of mlflow's. Values of steps travel together with the next row, or when a message is full."""

    def __init__(self, about: About) -> None:
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric, self._waiting = Metric, list[Any]()
        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        there = self._client.get_experiment_by_name(name)
        experiment = there.experiment_id if there is not None else self._client.create_experiment(name)
        before = self._client.search_runs([experiment], f"tags.`{TAG}` = '{about.identity}'")
        if before:
            self._id = before[0].info.run_id
            self._client.set_terminated(self._id, "RUNNING")
            return
        self._id = self._client.create_run(experiment, run_name=about.name, tags={TAG: about.identity}).info.run_id
        params = [Param(option, str(value)) for option, value in plain(about.config).items()]
        self._client.log_batch(self._id, params=params)

    def write(self, row: Row) -> None:
        """Every measured value, by epoch."""
        self._add(measured(row), int(row["epoch"] or 0))
        self._send()

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Under `step/`, by step."""
        self._add({f"step/{name}": value for name, value in values.items()}, step)

    def picture(self, name: str, pixels: NDArray[np.uint8]) -> None:
        """Among the run's artifacts."""
        self._client.log_image(self._id, pixels, f"{name}.png")

    def close(self, finished: bool) -> None:
        """FINISHED, or KILLED where the run isn't at its end."""
        self._send()
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")

    def _add(self, values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        self._waiting += [self._metric(name, value, now, step) for name, value in values.items()]
        if len(self._waiting) >= MOST_METRICS:
            self._send()

    def _send(self) -> None:
        while self._waiting:
            self._client.log_batch(self._id, metrics=self._waiting[:MOST_METRICS])
            del self._waiting[:MOST_METRICS]


def open_sink(about: About) -> tuple[Sink, tuple[type[Exception], ...]]:
    """An `MlflowSink`, and what it may raise. Raises `UserError` where the store can't be reached."""
    from moco.errors import UserError, in_a_line

    try:
        return MlflowSink(about), _failures()
    except _failures() as error:
        raise UserError(f"--log mlflow: {in_a_line(error)}") from error


def _failures() -> tuple[type[Exception], ...]:
    """What mlflow raises: its own, and of a database what sqlalchemy says, or that there is no driver for it."""
    from mlflow.exceptions import MlflowException

    own = (MlflowException, OSError, ImportError)
    if find_spec("sqlalchemy") is None:  # mlflow-skinny has no databases
        return own
    from sqlalchemy.exc import SQLAlchemyError

    return (*own, SQLAlchemyError)
