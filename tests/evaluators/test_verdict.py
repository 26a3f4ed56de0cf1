"""The verdict on the runs that taught it, on none that is sound, and at each threshold."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import moco.evaluators.verdict as judged
from moco.config import Config, from_dict
from moco.evaluators.verdict import BATCH, RUNNING, SHUFFLED, Setting, movement, told, verdict
from moco.tables import Row

FILE = Path(__file__).parents[2] / "benchmarks" / "results" / "2026-11-25-health.json"
RUNS: dict[str, dict[str, Any]] = json.loads(FILE.read_text())["runs"]
SETTING = Setting(queue_size=4096, temperature=0.2, momentum=0.99)
SOUND: Row = {
    "epoch": 3, "step": 300, "loss": 6.0, "contrast_top1": 0.4, "positive_similarity": 0.6, "embedding_std": 0.9,
    "effective_rank": 60.0, "queue_fill": 1.0, "key_lag": 0.05, BATCH: 0.5, SHUFFLED: 0.5, RUNNING: 0.5,
}  # fmt: skip


def setting_of(run: dict[str, Any]) -> Setting:
    values: dict[str, Any] = {}
    for name, value in run["options"].items():
        section, _, field = name.rpartition(".")
        (values.setdefault(section, {}) if section else values)[field] = value
    config: Config = from_dict(values)
    return Setting.of(config)


def said(**changes: float | None) -> str:
    return verdict([SOUND, SOUND, {**SOUND, **changes}], SETTING).sign


@pytest.mark.parametrize("name", RUNS)
def test_every_run_of_the_set_is_told_rightly(name: str) -> None:
    run = RUNS[name]
    setting = setting_of(run)
    signs = [verdict(run["rows"][: n + 1], setting).sign for n in range(len(run["rows"]))]
    assert signs[-1] == run["sign"]
    if run["sign"] == "learning":  # no false alarm in any epoch
        assert set(signs) <= {"too early", "learning"}
    else:  # and no failing run is called sound for long
        assert run["sign"] in signs[: judged.PATIENCE_EPOCHS + 1]


def test_the_set_has_every_way_to_fail_that_a_run_showed_and_the_shipped_recipes() -> None:
    assert {run["sign"] for run in RUNS.values()} == {
        "learning", "lr too low", "lr too high", "temperature", "too easy", "collapse",
    }  # fmt: skip
    assert {"recipe shapes", "recipe imagenette-cpu, 15 epochs", "recipe imagenette-cpu, 20 epochs"} <= set(RUNS)


def test_a_sound_row_gets_no_sentence() -> None:
    assert told([SOUND] * 3, SETTING) == ("learning", None)
    assert verdict([], SETTING).sign == "too early" and verdict([SOUND], SETTING).sign == "too early"
    assert verdict([{"epoch": n} for n in range(5)], SETTING).sign == "learning"  # nothing measured, nothing wrong


def test_each_threshold_from_both_sides() -> None:
    guessing = SETTING.guessing
    assert (said(embedding_std=0.11), said(embedding_std=0.09)) == ("learning", "collapse")
    assert said(contrast_top1=0.62) == "learning" and said(contrast_top1=0.64) == "collapse"  # drift: fresh keys 0.5
    assert said(**{BATCH: 0.64}) == "learning" and said(**{BATCH: 0.66}) == "leak"
    assert said(**{BATCH: 0.66, RUNNING: 0.6}) == "learning"  # found without company too
    easy = {BATCH: 0.9, SHUFFLED: 0.9, RUNNING: 0.9, "positive_similarity": 0.9}
    assert said(**easy, contrast_top1=0.92) == "learning" and said(**easy, contrast_top1=0.94) == "too easy"
    cold = replace(SETTING, temperature=0.04)
    losses: list[Row] = [{**SOUND, "loss": share * guessing} for share in (1.19, 1.21)]
    assert [verdict([SOUND, SOUND, row], cold).sign for row in losses] == ["learning", "temperature"]
    assert said(loss=1.21 * guessing) == "learning"  # T 0.2 isn't to blame
    flat: Row = {**SOUND, "loss": 0.98 * guessing}
    assert verdict([SOUND, flat, flat], SETTING).sign == "guessing"
    assert verdict([SOUND, flat, {**flat, "loss": 0.97 * guessing}], SETTING).sign == "learning"
    slow: Row = {**flat, "key_lag": 0.007}
    assert verdict([slow] * 3, SETTING).sign == "lr too low"
    fast: Row = {**SOUND, "key_lag": 2.6, "effective_rank": 4.0}
    assert verdict([SOUND, fast], SETTING).sign == "lr too high"
    assert verdict([SOUND, {**fast, "effective_rank": 6.0}], SETTING).sign == "too early"


def test_a_temperature_that_allows_nothing_but_guessing_is_said_at_once() -> None:
    assert verdict([SOUND], Setting(4096, 10.0, 0.99)).sign == "temperature"
    assert Setting(1024, 0.2, 0.99).least_loss == pytest.approx(math.log(1 + 1024 * math.exp(-5)))


def test_the_movement_of_a_step_does_not_hang_on_the_momentum() -> None:
    """A steady walk of 0.001 a step: the lag is a thousandth times the steps that the average reaches back."""
    for m, step, lag in ((0.99, 1000, 0.1), (0.999, 10_000, 1.0), (0.999, 50, 0.05)):
        assert movement({"step": step, "key_lag": lag}, Setting(64, 0.2, m)) == pytest.approx(0.001)
    assert movement({"step": 10}, SETTING) is None
    rising = Setting(64, 0.2, 0.9, momentum_end=1.0, epochs=10)  # m is 0.95 half way: an average of 20 steps
    assert movement({"step": 500, "epoch": 5, "key_lag": 0.02}, rising) == pytest.approx(0.001)


def test_every_sentence_is_one_line_with_something_to_do() -> None:
    for run in RUNS.values():
        word, line = told(run["rows"], setting_of(run))
        assert (line is None) == (word == "learning")
        if line is not None:
            assert ("\n" not in line and ";" in line) or "lower" in line or "raise" in line
