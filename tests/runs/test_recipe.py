"""Recipes from Python: by name or file, with changes, every mistake named."""

from __future__ import annotations

from pathlib import Path

import pytest

import moco
from moco.config import TrainConfig
from moco.errors import UserError
from moco.runs.recipe import read_recipe, recipe, shipped


def test_changes_by_field_section_and_dotted_name() -> None:
    plain = recipe("shapes")
    changed = recipe("shapes", data="photos", train={"epochs": 5}, **{"optimizer.lr": 0.1, "monitor.logistic": False})
    assert changed.data == "photos"
    assert (changed.train.epochs, changed.train.batch_size) == (5, plain.train.batch_size)
    assert (changed.optimizer.lr, changed.optimizer.weight_decay) == (0.1, plain.optimizer.weight_decay)
    assert changed.monitor.logistic is False
    assert recipe("shapes", train=TrainConfig(7, 32)).train == TrainConfig(7, 32)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trian": {"epochs": 5}}, "unknown key trian: did you mean train"),
        ({"train": {"epoch": 5}}, r"unknown key train\.epoch: did you mean epochs"),
        ({"train.epochs": 0}, r"train\.epochs is 0"),
        ({"train.epochs": "many"}, r"train\.epochs is 'many', give int"),
        ({"model.temperature": -1}, r"model\.temperature is -1"),
    ],
)
def test_a_change_that_cant_be_right_is_one_line(changes: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        recipe("shapes", **changes)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean imagenette"):
        recipe("imagenete")


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("train: {epochs: 5}\nmodel:\n  dim: 64\n  dim: 32\ntrain: {epochs: 6}\n")
    with pytest.raises(UserError, match=r"model\.dim stands twice \(line 4\); train stands twice \(line 5\)"):
        read_recipe(path)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_recipe_says_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="is empty"):
        read_recipe(path)


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_opens(name: str) -> None:
    assert recipe(name).model.dim == 128


def test_a_path_is_taken_for_data(flat: Path) -> None:
    for name in ("auto", "shapes"):
        assert recipe(name, data=flat, runtime={"device": "cpu"}).data == str(flat)


def test_a_name_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"give a configuration, as `moco\.recipe` makes one, not str"):
        moco.pretrain("shapes", tmp_path / "run")  # type: ignore[arg-type]
