"""The configuration as command-line options, shared by the commands that start from a recipe."""

from __future__ import annotations

import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from moco.automatic import as_values, reasons
from moco.commands.brief_help import brief_help
from moco.commands.parsing import Parser
from moco.commands.recipes import RecipeAction, recipe_first
from moco.config import Config, from_dict
from moco.console import say
from moco.runs.recipe import AUTO, automatic
from moco.words import value_of


class RecipeParser(Parser):
    """A parser with `--recipe`, `--print_config` and an option for each field of `Config`.

    Where it doesn't `look`, no image is: a recipe that follows from them is left to whoever trains.
    """

    def __init__(self, command: str, description: str, example: str, look: bool = True) -> None:
        super().__init__(command, description, example)
        self.look = look
        told = "auto (the default: by the images and the device), a shipped name, or a YAML file"
        self.add_argument("--recipe", action=RecipeAction, metavar="NAME|FILE", help=told)
        self.add_class_arguments(Config, nested_key=None)

    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        argv = recipe_first(list(args or []))
        if asked_for_brief_help(argv):
            print(brief_help(self.prog, self.description or "", self.epilog or "", self._actions))
            raise SystemExit(0)
        name = value_of("--recipe", argv)
        if name == AUTO:
            return self._automatic(argv[2:] if argv[0] == "--recipe" else argv[1:], *rest, **kwargs)
        return self._automatic(argv, *rest, **kwargs) if name is None else super().parse_args(argv, *rest, **kwargs)

    def _automatic(self, argv: list[str], *rest: Any, **kwargs: Any) -> Any:
        """Options without a recipe: they are looked at alone first, for the data and the device that they name."""
        parsed = super().parse_args(without_print(argv) if self.look else argv, *rest, **kwargs)
        if not self.look:
            return parsed
        alone = config_of(parsed)
        asked = {name: value_of(f"--{name}", argv) for name in ("model.backbone", "views.size", "train.epochs")}
        given = {name: yaml.safe_load(value) for name, value in asked.items() if value is not None}
        made = automatic(alone.data, {"store": alone.store, "runtime": alone.runtime, **given})
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / f"{AUTO}.yaml"
            file.write_text(yaml.safe_dump(as_values(made)))
            parsed = super().parse_args(["--recipe", str(file), *argv], *rest, **kwargs)
        say(f"--recipe {AUTO} (what is given on the command line stands):")
        for line in reasons(made, config_of(parsed)):
            say(line)
        return parsed


def asked_for_brief_help(argv: list[str]) -> bool:
    """Whether `argv` has `--help` or `-h`, and not `--help all`."""
    place = next((n for n, word in enumerate(argv) if word in ("-h", "--help")), None)
    return place is not None and argv[place + 1 : place + 2] != ["all"]


def without_print(argv: list[str]) -> list[str]:
    """`argv` without `--print_config`, which would print before the recipe is known."""
    return [word for word in argv if word.split("=")[0] != "--print_config"]


def config_of(args: Any) -> Config:
    """The frozen record of parsed `args`."""
    values = args.as_dict()
    return from_dict({f.name: values[f.name] for f in fields(Config)})
