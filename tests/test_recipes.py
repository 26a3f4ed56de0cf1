"""Every shipped recipe: it has its header, it parses, it makes sense, and a step of it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moco.commands.options import RecipeParser, config_of
from moco.config import Config
from moco.config_check import check
from moco.runs.pretrain import prepare
from moco.runs.recipe import shipped

HEADER = ("# Source ", "# Command ", "# Batch ", "# Hardware ", "# Hours ", "# Expect ")


def parse(path: Path) -> Config:
    return config_of(RecipeParser("pretrain", "", "").parse_args(["--recipe", str(path)]))


@pytest.mark.parametrize("name", shipped())
def test_the_header_is_a_record(name: str) -> None:
    text = shipped()[name].read_text()
    assert [line for line in HEADER if line not in text] == []


def test_imagenette_is_the_seeds_row() -> None:
    config = parse(shipped()["imagenette"])
    model, optimizer, schedule = config.model, config.optimizer, config.schedule
    assert (model.backbone, model.queue_size, model.momentum, model.temperature) == (
        "resnext50_32x4d",
        16384,
        0.999,
        0.2,
    )
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (0.03, 0.9, 1e-4)
    assert (schedule.name, schedule.min_lr, schedule.warmup_epochs) == ("cosine", 5e-7, 0)
    assert (config.train.epochs, config.train.batch_size, config.views.pipeline, model.mlp) == (600, 32, "v2", True)


@pytest.mark.parametrize("name", shipped())
def test_it_makes_sense_and_takes_a_step(name: str, labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the recipe's own network, loss, views and schedule; batch, queue and size made small."""
    config = parse(shipped()[name])
    check(config)
    small = replace(
        config,
        data=str(labelled),
        views=replace(config.views, size=32),
        store=replace(config.store, short_side=40),
        model=replace(config.model, queue_size=64),
        train=replace(config.train, batch_size=16, epochs=config.train.epochs or 20),
        runtime=replace(config.runtime, precision="float32"),
    )
    training = prepare(small).training
    head = training.model.encoder_q.head
    before = {key: value.clone() for key, value in head.state_dict().items()}
    training.model.train()
    training.step(training.sampler.order(0)[0])
    assert training.progress.step == 1
    assert torch.isfinite(training.totals.state_dict()).all()
    assert training.model.queue_ptr.item() == (32 if small.model.symmetric else 16)
    if config.schedule.warmup_epochs == 0:
        assert any(not torch.equal(before[key], value) for key, value in head.state_dict().items())
