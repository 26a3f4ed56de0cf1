"""The configuration: it comes back as it was, names every mistake at once, and never starts a run on one."""

from __future__ import annotations

import json
import os
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import moco
from moco.cli import main
from moco.config import Config, ModelConfig, StoreConfig, TrainConfig, ViewsConfig, from_dict, parse_range, unknown_keys
from moco.config_check import check, flat
from moco.errors import UserError

SECTIONS = [f.name for f in fields(Config) if is_dataclass(f.default_factory)]


def section_strategy(record: type) -> st.SearchStrategy[Any]:
    """Any values of the right types, sensible or not."""
    by_type = {
        "int": st.integers(), "float": st.floats(allow_nan=False), "bool": st.booleans(), "str": st.text(max_size=5),
        "str | None": st.none() | st.text(max_size=5), "int | None": st.none() | st.integers(),
        "list[int]": st.lists(st.integers(), max_size=3),
    }  # fmt: skip
    default = record()
    strategies = {}
    for f in fields(record):
        strategies[f.name] = by_type.get(str(f.type), st.just(getattr(default, f.name)))
    return st.builds(record, **strategies)


CONFIGS = st.builds(
    Config,
    data=st.none() | st.text(max_size=5),
    seed=st.integers(),
    **{f.name: section_strategy(f.default_factory) for f in fields(Config) if f.name in SECTIONS},  # type: ignore[arg-type]
)


@settings(max_examples=50, deadline=None)
@given(CONFIGS)
def test_round_trip(config: Config) -> None:
    assert from_dict(config.as_dict()) == config
    assert from_dict(json.loads(json.dumps(config.as_dict()))) == config
    assert from_dict(yaml.safe_load(yaml.safe_dump(config.as_dict(), sort_keys=False))) == config
    assert set(flat(config)) == {
        f"{name}.{key}" if isinstance(value, dict) else name
        for name, value in config.as_dict().items()
        for key in (value if isinstance(value, dict) else [None])
    }


@settings(max_examples=50, deadline=None)
@given(CONFIGS)
def test_check_passes_or_says_what_is_wrong(config: Config) -> None:
    try:
        check(config)
    except UserError as error:
        assert "\n" not in str(error)


def test_missing_keys_are_defaults() -> None:
    assert from_dict({}) == Config()
    assert from_dict({"optimizer": {"lr": 1.0}}) == replace(Config(), optimizer=replace(Config().optimizer, lr=1.0))


def test_every_unknown_key_is_named_with_the_nearest() -> None:
    values = {"optimiser": {}, "optimizer": {"learning_rate": 1, "momentun": 0.9}, "views": {"sizes": 3}, 7: 1}
    with pytest.raises(UserError) as caught:
        from_dict(values)  # type: ignore[arg-type]
    assert str(caught.value).split("; ") == [
        "unknown key optimiser: did you mean optimizer?",
        "unknown key optimizer.learning_rate: valid: decay_vectors, lr, momentum, name, vector_lr, weight_decay",
        "unknown key optimizer.momentun: did you mean momentum?",
        "unknown key views.sizes: did you mean size?",
        str(unknown_keys({7: 1}, Config)[0]),
    ]


@pytest.mark.parametrize("values", [None, [], "text", 3, {"optimizer": None}, {"optimizer": 3}, {"views": ["size"]}])
def test_what_is_no_mapping(values: Any) -> None:
    with pytest.raises(UserError, match="must be a mapping of option names to values"):
        from_dict(values)


def test_defaults_are_valid() -> None:
    check(Config())


def test_all_problems_at_once() -> None:
    config = from_dict(
        {
            "seed": -1,
            "optimizer": {"lr": -1.0, "momentum": 1.0},
            "train": {"epochs": 0, "batch_size": 1},
            "model": {"temperature": float("nan"), "queue_size": 0},
            "views": {"pipeline": "v3", "scale_min": 0.0, "size": 1},
            "store": {"max_bad": 2.0},
        }
    )
    with pytest.raises(UserError) as caught:
        check(config)
    for name in (
        "seed", "optimizer.lr", "optimizer.momentum", "train.epochs", "train.batch_size", "model.temperature",
        "model.queue_size", "views.pipeline", "views.scale_min", "views.size", "store.max_bad",
    ):  # fmt: skip
        assert f"{name} is " in str(caught.value), name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_number_may_be_non_finite(value: float) -> None:
    for section in SECTIONS:
        record = getattr(Config(), section)
        for f in fields(record):
            if isinstance(getattr(record, f.name), float):
                config = replace(Config(), **{section: replace(record, **{f.name: value})})
                with pytest.raises(UserError, match=f"{section}.{f.name} is {value}"):
                    check(config)


def test_what_is_stored_is_enough_for_the_small_crops() -> None:
    views = ViewsConfig(size=64, scale_min=0.4)
    assert Config(views=views).short_side == 102
    small = replace(views, small_crops=2, small_size=32, small_scale=[0.05, 0.2])
    assert Config(views=small).short_side == 144
    assert Config(views=small, store=StoreConfig(short_side=90)).short_side == 90


def test_what_is_stored_is_enough_for_the_evaluation_view() -> None:
    views = ViewsConfig(size=56, scale_min=1.0)
    assert (views.centre_size, Config(views=views).short_side) == (56, 56)
    larger = replace(views, eval_zoom=1.5)
    assert (larger.centre_size, Config(views=larger).short_side) == (84, 96)  # the centre's 7/8
    assert Config(views=replace(larger, scale_min=0.2)).short_side == 126


def test_monitors_know_what_other_views_cost() -> None:
    config = Config(train=TrainConfig(epochs=10), model=ModelConfig(symmetric=True))
    assert config.monitor_interval(1000, 8000) == 10
    early = replace(config, views=ViewsConfig(size=64, early_size=32, early_epochs=5))  # 8 (1/2 + 1/2 / 4) = 5
    assert early.monitor_interval(1000, 8000) == 16
    small = replace(config, views=ViewsConfig(size=64, small_crops=4, small_size=32))  # 8 + 4 * 3 / 4 = 11
    assert small.monitor_interval(1000, 8000) == 8
    assert ViewsConfig(size=64, eval_zoom=1.5).centre_cost == 2.25


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"views": {"size": None}}, "views.size is None, give int"),
        ({"optimizer": {"lr": "fast"}}, "optimizer.lr is 'fast', give float"),
        ({"train": {"epochs": True}}, "train.epochs is True, give int | None"),
        ({"model": {"mlp": 1}}, "model.mlp is 1, give bool"),
        ({"store": {"labels": "folder"}}, "store.labels is 'folder', valid: auto, folders, none"),
        ({"store": {"cache": 3}}, "store.cache is 3, give str | None"),
        ({"schedule": {"milestone_epochs": [1, "x"]}}, "schedule.milestone_epochs is [1, 'x'], give list[int]"),
        ({"data": ["a"], "seed": 0.5}, "data is ['a'], give str | None; seed is 0.5, give int"),
    ],
)
def test_wrong_types_in_a_hand_edited_file(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check(from_dict(values))
    assert str(caught.value) == message


def test_no_division_by_zero_before_the_check() -> None:
    config = replace(Config(), views=replace(Config().views, scale_min=0.0), store=StoreConfig(short_side=5))
    assert config.short_side == 5


# --- through the command line: exit 2, one line, nothing made -------------------------------------------------

PRETRAIN = ["pretrain", "--recipe", "folder-cpu"]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that the command line answers with."""
    assert main([*PRETRAIN, *argv]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in error
    (line,) = error.splitlines()
    assert line.startswith("moco: ")
    return line


@pytest.mark.parametrize(
    ("text", "expected"), [("auto", None), ("full", None), ("0,4095", (0, 4095)), ("-921,1.5e3", (-921, 1500))]
)
def test_a_range(text: str, expected: tuple[float, float] | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_range(text) == expected
    assert main([*PRETRAIN, f"--store.range={text}", "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["store"]["range"] == text


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--optimizer.lr=nan", "--optimizer.lr is nan, give a number"),
        ("--optimizer.lr=.nan", "optimizer.lr is nan"),
        ("--optimizer.lr=.inf", "optimizer.lr is inf, give a finite number"),
        ("--optimizer.lr=-0.1", "optimizer.lr is -0.1, give a number above 0"),
        ("--optimizer.lr=0", "optimizer.lr is 0.0"),
        ("--train.epochs=0", "train.epochs is 0, give 1 or more"),
        ("--train.epochs=-3", "train.epochs is -3"),
        ("--train.epochs=many", "--train.epochs is many, give a whole number or null"),
        ("--train.epochs=1.5", "--train.epochs is 1.5, give a whole number or null"),
        ("--optimizer.lr=fast", "--optimizer.lr is fast, give a number"),
        ("--optimizer.lr=[1]", "--optimizer.lr"),
        ("--model.mlp=7", "--model.mlp is 7, give true or false"),
        ("--schedule.name=linear", "--schedule.name is linear, valid: "),
        ("--schedule.milestone_epochs=3", "--schedule.milestone_epochs is 3, give a list"),
        ("--train.batch_size=1", "batch-norm needs 2 or more"),
        ("--train.batch_size=big", "--train.batch_size"),
        ("--views.scale_min=0", "views.scale_min is 0.0"),
        ("--views.size=-5", "views.size is -5"),
        ("--views.early_size=4 --views.early_epochs=1", "views.early_size is 4, give 8 pixels or more"),
        ("--views.eval_zoom=96", "views.eval_zoom is 96.0, give a multiple of views.size from 0.5 to 4"),
        ("--views.small_crops=2", "views.small_crops needs --views.small_size"),
        ("--views.small_size=32", "views.small_size needs --views.small_crops"),
        ("--views.small_scale=[0.2,0.1]", "views.small_scale is [0.2, 0.1], give two shares of the area"),
        ("--views.small_crops=-1", "views.small_crops is -1, give 0 or more"),
        ("--views.early_size=32", "views.early_size needs --views.early_epochs"),
        ("--views.early_size=64 --views.early_epochs=1", "views.early_size 64 is no smaller than views.size 64"),
        ("--views.early_epochs=1", "views.early_epochs needs --views.early_size"),
        ("--views.early_size=32 --views.early_epochs=8 --train.epochs=8", "of 8 epochs: give 4, or --train.epochs 9"),
        ("--store.max_bad=1", "store.max_bad is 1.0"),
        ("--store.range=wide", "store.range is 'wide', give auto, full, or LOW,HIGH"),
        ("--store.range=5,5", "store.range is '5,5', give auto, full, or LOW,HIGH: two numbers, the first below"),
        ("--store.range=1", "store.range is '1', give auto"),
        ("--store.range=0,inf", "store.range is '0,inf', give auto"),
        ("--store.range=1,2,3", "store.range is '1,2,3', give auto"),
        ("--seed=-1", "seed is -1"),
        ("--seed=99999999999999999999", "seed is"),
        ("--store.labels=folder", "--store.labels"),
        ("--optimizer.lrr=1", "did you mean --optimizer.lr"),
        ("--views.pipeline=v9", "views.pipeline is 'v9'"),
    ],
)
def test_a_bad_option_is_one_line(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], option: str, message: str
) -> None:
    assert message in refused(capsys, *option.split())
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer: {lr: fast}", "lr"),
        ("optimizer: {lr: .nan}", "optimizer.lr is nan"),
        ("optimizer: {lr: -1}", "optimizer.lr is -1"),
        ("train: {epochs: 0}", "train.epochs is 0"),
        ("train: {epochs: twelve}", "epochs"),
        ("train: {epoch: 3}", "unknown key train.epoch: did you mean epochs?"),
        ("optimiser: {lr: 1}\ntrian: {}", "unknown key trian: did you mean train?"),
        ("train: 3", "train must be a mapping"),
        ("- a\n- b", "must be a mapping"),
        ("just words", "must be a mapping"),
        ("a: [1, 2", "recipe"),
        ("\tx: 1", "recipe"),
        ("views: {size: null}", "views.size is None, give int"),
    ],
)
def test_a_bad_recipe_is_one_line(elsewhere: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    (elsewhere / "mine.yaml").write_text(text)
    assert message in refused(capsys, "--recipe", "mine.yaml")
    assert [path.name for path in elsewhere.iterdir()] == ["mine.yaml"]


def test_recipes_that_are_no_text(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "mine.yaml").write_bytes(b"\xff\xfe\x00 not text")
    assert "recipe" in refused(capsys, "--recipe", "mine.yaml")
    assert "no recipe 'imagenett'" in refused(capsys, "--recipe", "imagenett")
    (elsewhere / "folder.yaml").mkdir()
    assert "no recipe" in refused(capsys, "--recipe", "folder.yaml")


def test_several_bad_options_are_one_line(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "--optimizer.lr=-1", "--train.epochs=0", "--views.pipeline=v9")
    assert "optimizer.lr is" in line
    assert "train.epochs is" in line
    assert "views.pipeline is" in line


@pytest.mark.parametrize("data", ["nowhere/at/all", "empty", "new\nline", "imagenete", "~nobody-here/x"])
def test_bad_data_is_one_line(elsewhere: Path, capsys: pytest.CaptureFixture[str], data: str) -> None:
    (elsewhere / "empty").mkdir()
    options = ["--model.backbone=resnet18", "--model.queue_size=32", "--views.size=32", "--train.batch_size=4"]
    assert "--data" in refused(capsys, f"--data={data}", *options)
    assert [path.name for path in elsewhere.iterdir()] == ["empty"]


def test_a_path_that_the_configuration_cannot_hold_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data .*dir\\udce9 isn't UTF-8"):
        check(moco.recipe("folder-cpu", data=os.fsdecode(b"dir\xe9")))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"train.accumulate": 3, "train.batch_size": 16}, "train.accumulate 3 must divide train.batch_size 16"),
        ({"model.head_layers": 1, "model.head_batchnorm": True}, "model.head_batchnorm needs --model.head_layers 2"),
        ({"model.head_layers": 1, "model.head_width": 512}, "model.head_width needs --model.head_layers 2"),
    ],
)
def test_what_would_do_nothing_or_fail_later_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        check(moco.recipe("folder-cpu", **options))
