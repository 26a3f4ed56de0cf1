"""The learning rate against the published logs and formulas."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import pytest

from moco.config import ScheduleConfig
from moco.cosine import momentum
from moco.train.schedule import learning_rate

SHARED = Path(os.environ.get("MOCO_REFERENCE", Path(__file__).parents[3] / "shared" / "reference"))
SEED_LOG = SHARED / "seed_pretrain_log.csv"


@pytest.mark.skipif(not SEED_LOG.exists(), reason="needs seed_pretrain_log.csv (MOCO_REFERENCE or ../shared/reference)")
def test_the_imagenette_recipe_gives_the_seeds_rates() -> None:
    config = ScheduleConfig(name="cosine", per="epoch", min_lr=5e-7)
    rows = list(csv.DictReader(SEED_LOG.read_text().splitlines()))
    assert len(rows) == 600
    for epoch, row in enumerate(rows):
        assert learning_rate(config, 0.03, epoch * 295, 295, 600) == pytest.approx(float(row["lr"]), rel=1e-6)


def test_the_step_schedule_is_the_papers() -> None:
    config = ScheduleConfig(name="step", milestone_epochs=[120, 160], gamma=0.1)
    rates = [learning_rate(config, 0.03, epoch * 10, 10, 200) for epoch in (0, 119, 120, 159, 160, 199)]
    assert rates == pytest.approx([0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003])


def test_per_epoch_holds_the_rate_and_per_step_moves_it() -> None:
    held = [learning_rate(ScheduleConfig(per="epoch"), 1.0, step, 4, 10) for step in range(8)]
    assert len(set(held[:4])) == 1
    assert len(set(held)) == 2
    moving = [learning_rate(ScheduleConfig(per="step"), 1.0, step, 4, 10) for step in range(40)]
    assert moving == sorted(moving, reverse=True)
    assert moving[20] == pytest.approx(0.5)
    assert moving[10] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_warm_up_rises_to_the_peak_and_the_cosine_begins_there() -> None:
    config = ScheduleConfig(per="step", warmup_epochs=2)
    rates = [learning_rate(config, 1.0, step, 5, 12) for step in range(60)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_warm_up_of_one_epoch_is_one_though_the_rate_changes_by_epoch() -> None:
    rates = [learning_rate(ScheduleConfig(per="epoch", warmup_epochs=1), 1.0, step, 4, 10) for step in range(8)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert len(set(rates[4:])) == 1


def test_the_momentum_rises_by_a_cosine() -> None:
    assert [round(momentum(0.9, 1.0, step / 4), 6) for step in range(5)] == [0.9, 0.914645, 0.95, 0.985355, 1.0]
