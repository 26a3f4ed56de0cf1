"""Batch, queue and epochs that follow from the number of images."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moco.config import Config, ModelConfig, OptimizerConfig, TrainConfig
from moco.config_check import check
from moco.sizing import advice, sized

OPEN = Config(
    model=ModelConfig(queue_size=None, symmetric=True, bn_splits=None), train=TrainConfig(epochs=None, batch_size=None)
)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("count", [2, 3, 10, 100, 270, 1000, 3000, 9469, 50_000, 2_000_000])
def test_any_number_of_images_makes_a_sensible_run(count: int, device: str) -> None:
    config, line = sized(OPEN, count, device)
    check(config)
    assert line is not None and f"{count:,} images" in line
    assert config.batch_size <= count
    assert config.queue_size <= 65_536
    assert advice(config, count) == [] or count < 16  # with a handful, one step's keys are more than the images
    if count >= 128:
        assert count // config.batch_size >= 8
        assert config.queue_size <= count


def test_270_photographs() -> None:
    """The case that made one step an epoch, a queue fifteen times the data, and twenty steps in all."""
    config, line = sized(OPEN, 270, "cpu")
    assert (config.batch_size, config.queue_size, config.epochs) == (32, 256, 100)
    assert line == (
        "for 270 images: train.batch_size 32 (8 steps an epoch), model.bn_splits 2 (a thread for each 16), "
        "model.queue_size 256 (no more than the images, or than helps), train.epochs 100 (800 steps); "
        "give them to have others"
    )


def test_with_muon_on_a_cpu_a_batch_is_128_at_most() -> None:
    muon = replace(OPEN, optimizer=OptimizerConfig(name="muon"))
    sizes = {(device, config.optimizer.name): sized(config, 3000, device)[0].batch_size
             for device in ("cpu", "cuda") for config in (OPEN, muon)}  # fmt: skip
    assert sizes.pop(("cpu", "muon")) == 128
    assert set(sizes.values()) == {256}


def test_what_is_given_stands() -> None:
    given = replace(
        OPEN, model=replace(OPEN.model, queue_size=999, bn_splits=4), train=TrainConfig(epochs=3, batch_size=64)
    )
    assert sized(given, 270, "cpu") == (given, None)


def test_a_queue_of_many_times_the_data_is_said() -> None:
    given = Config(model=ModelConfig(queue_size=4096), train=TrainConfig(epochs=20, batch_size=256))
    said = advice(given, 270)
    assert len(said) == 2
    assert "15 times the 270 images" in said[0] and "--model.queue_size 256" in said[0]
    assert "1 step an epoch" in said[1] and "--train.batch_size 32 would make 8" in said[1]
    assert advice(Config(model=ModelConfig(queue_size=16_384), train=TrainConfig(batch_size=32)), 9469) == []


def test_a_queue_that_is_recommended_holds_a_steps_keys() -> None:
    model = ModelConfig(queue_size=2048, symmetric=True)
    (said,) = advice(Config(model=model, train=TrainConfig(batch_size=64)), 100)[:1]
    assert "--model.queue_size 128 would do" in said
    check(Config(model=replace(model, queue_size=128), train=TrainConfig(batch_size=64)))


@pytest.mark.parametrize(
    ("batch", "parts"), [(2, 1), (8, 1), (16, 2), (64, 2), (128, 2), (256, 4), (1024, 4), (25, 1), (258, 3)]
)
def test_parts_follow_the_batch_on_a_cpu_alone(batch: int, parts: int) -> None:
    given = replace(OPEN, train=TrainConfig(epochs=1, batch_size=batch))
    config, _ = sized(given, 10 * batch, "cpu")
    assert config.bn_splits == parts
    check(config)
    assert sized(given, 10 * batch, "cuda")[0].bn_splits == 1
    assert sized(given, 10 * batch, "cpu", splittable=False)[0].bn_splits == 1
