"""`--recipe auto`: what it chooses, and that what is given stands."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import moco
from moco.automatic import as_values, choices, reasons
from moco.cli import main
from moco.config import Config, from_dict
from moco.config_check import check
from moco.runs.recipe import recipe


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("short_side", [1, 28, 32, 64, 100, 160, 375, 4000])
def test_every_choice_is_a_sound_configuration(short_side: int, device: str) -> None:
    made = choices(short_side, device)
    config = from_dict(as_values(made))
    check(config)
    assert config.views.size % 16 == 0
    assert all("\n" not in line for line in reasons(made, config))
    assert len(reasons(made, config)) == sum(choice.value is not None for choice in made)


@pytest.mark.parametrize(
    ("short_side", "device", "size", "backbone", "small_stem"),
    [
        (375, "cpu", 64, "timm/resnet10t", False),
        (32, "cpu", 64, "timm/resnet10t", False),
        (375, "cuda", 224, "resnet50", False),
        (100, "cuda", 96, "resnet50", False),
        (32, "cuda", 32, "resnet18", True),
    ],
)
def test_sizes(short_side: int, device: str, size: int, backbone: str, small_stem: bool) -> None:
    config = from_dict(as_values(choices(short_side, device)))
    assert (config.views.size, config.model.backbone, config.model.small_stem) == (size, backbone, small_stem)


def test_what_is_given_has_no_reason() -> None:
    made = choices(375, "cpu")
    values = as_values(made)
    values["optimizer"]["lr"] = 0.5
    said = "\n".join(reasons(made, from_dict(values)))
    assert "optimizer.name muon" in said and "optimizer.lr" not in said


def test_from_python(flat: Path) -> None:
    config = recipe("auto", data=str(flat), runtime={"device": "cpu"}, **{"optimizer.lr": 0.5})
    assert isinstance(config, Config)
    assert (config.optimizer.name, config.optimizer.lr, config.views.size) == ("muon", 0.5, 64)
    assert config.train.batch_size is None  # by the number of images, once they are packed


def test_a_short_run_warms_up_for_a_tenth_of_it(flat: Path) -> None:
    asked = {"data": str(flat), "runtime": {"device": "cpu"}}
    warm_ups = [recipe("auto", **asked, **{"train.epochs": epochs}).schedule.warmup_epochs for epochs in (1, 4, 40)]
    assert warm_ups == [0.1, 0.4, 1.0]


def test_print_config_prints_what_auto_takes(flat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pretrain", "--data", str(flat), "--runtime.device", "cpu", "--train.epochs", "1", "--print_config"]
    assert main(words) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["optimizer"]["name"] == "muon" and printed["schedule"]["warmup_epochs"] == 0.1
    assert "recipe" not in printed  # a file of this is a recipe


def test_a_network_of_one_size_is_evaluated_at_it(flat: Path) -> None:
    asked = {"data": str(flat), "runtime": {"device": "cpu"}}
    assert recipe("auto", **asked).views.centre_size == 96
    assert recipe("auto", **asked, model={"backbone": "resnet50"}).views.centre_size == 96
    assert recipe("auto", **asked, **{"model.backbone": "vit_tiny_patch16_224"}).views.centre_size == 64
    assert recipe("auto", **asked, **{"views.size": 128}).views.centre_size == 128  # of which nothing is known


def test_it_needs_images_to_look_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(moco.UserError, match="no data: give --data"):
        recipe("auto")
    assert main(["pretrain", "--recipe", "auto"]) == 2
    assert "no data: give --data" in capsys.readouterr().err
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    assert main(["pretrain", "--data", str(tmp_path)]) == 2
    assert "none of the images looked at can be read" in capsys.readouterr().err


def test_a_typing_mistake_is_answered_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--data", "nowhere", "--optimiser.lr", "1"]) == 2
    assert "--optimizer.lr" in capsys.readouterr().err
    assert main(["pretrain", "--recipe", "aut", "--data", "nowhere"]) == 2
    assert "auto" in capsys.readouterr().err
