"""The configuration as command-line options, shared by the commands that start from a recipe."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from moco.commands.parsing import Parser
from moco.commands.recipes import RecipeAction, recipe_first
from moco.config import Config, from_dict
from moco.console import say


class RecipeParser(Parser):
    """A parser with `--recipe`, `--print_config` and an option for each field of `Config`."""

    def __init__(self, command: str, description: str, example: str) -> None:
        super().__init__(command, description, example)
        self.add_argument("--recipe", action=RecipeAction, metavar="NAME|FILE", help="shipped name or YAML file")
        self.add_class_arguments(Config, nested_key=None)

    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        argv = recipe_first(list(args or []))
        parsed = super().parse_args(argv, *rest, **kwargs)
        if parsed.get("recipe") is None:
            name, why = default_recipe()
            say(f"no --recipe given: taking {name} ({why})")
            parsed = super().parse_args(["--recipe", name, *argv], *rest, **kwargs)
        return parsed


def default_recipe() -> tuple[str, str]:
    """The recipe of a command line without one, and why; looked up only once the options are known good."""
    import torch

    if torch.cuda.is_available():
        return "folder", "a CUDA GPU is here"
    return "folder-cpu", "no CUDA GPU is here"


def config_of(args: Any) -> Config:
    """The frozen record of parsed `args`."""
    values = args.as_dict()
    return from_dict({f.name: values[f.name] for f in fields(Config)})
