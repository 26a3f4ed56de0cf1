"""`--help` shows what people change first, `--help all` every option."""

from __future__ import annotations

import pytest

from moco.cli import main
from moco.commands.brief_help import FIRST
from moco.commands.pretrain import parser


def helped(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("asked", [["--help"], ["-h"], ["--recipe", "shapes", "--help"], ["--help", "--data", "x"]])
def test_help_is_short_and_names_what_people_change_first(capsys: pytest.CaptureFixture[str], asked: list[str]) -> None:
    text = helped(capsys, "pretrain", *asked)
    for name in (*(name for names in FIRST.values() for name in names), "--out", "--resume", "--overwrite"):
        assert f"  {name} " in text
    assert "--help all" in text and "--print_config" in text
    assert "--schedule.gamma" not in text and "--model " not in text
    assert text.count("\n") < 64 and max(map(len, text.splitlines())) <= 110


def test_help_all_has_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    text = helped(capsys, "pretrain", "--help", "all")
    assert [name for name in parser().option_names() if name not in text] == []


def test_a_command_with_a_recipe_shows_its_own_options_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--rounds ROUNDS" in helped(capsys, "bench", "--help")


def test_the_short_list_names_options_that_there_are() -> None:
    assert {name for names in FIRST.values() for name in names} <= set(parser().option_names())
