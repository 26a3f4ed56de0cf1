"""The commands that README and docs show: each is one of ours, with options that it has."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from moco.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def shown(page: Path) -> list[list[str]]:
    """The lines of a page's code that begin with `moco`, as words; a comment behind them is none."""
    found = re.findall(r"^(?:    |\$ )(moco [^\n]*)", page.read_text(), re.MULTILINE)
    found += [
        line
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
        if line.startswith("moco ")
    ]
    lines = (line.split(" # ")[0].split("#  ")[0] for line in found)
    return [shlex.split(line.replace("[", "").replace("]", "").replace("'", ""), comments=True) for line in lines]


CASES = [(page.name, words) for page in PAGES for words in shown(page)]


def test_there_are_commands_to_look_at() -> None:
    assert len(CASES) > 30
    assert {words[1] for _, words in CASES} >= {"pretrain", "linear", "evaluate", "report", "embed", "export", "verify"}


@pytest.mark.parametrize(("page", "words"), CASES, ids=[f"{page}: {' '.join(words)}" for page, words in CASES])
def test_a_command_that_is_shown_has_its_options(page: str, words: list[str]) -> None:
    command = words[1]
    if command in ("COMMAND", "--help"):
        return
    assert command in COMMANDS, f"{page} shows moco {command}"
    names = [command, words[2]] if command == "submit" else [command]  # a submitted command has its own options too
    known = {o for name in names for o in import_module(f"moco.commands.{name}").parser().option_names()} | {"--help"}
    asked = {word.split("=")[0] for word in words[2:] if word.startswith("--")}
    sections = {name for name in asked if any(option.startswith(name + ".") for option in known)}
    assert asked - known - sections == set(), f"{page} shows options that moco {command} lacks"
