"""`--recipe` on the command line: a shipped name or a YAML file."""

from __future__ import annotations

from typing import Any

from jsonargparse import ActionConfigFile

from moco.errors import UserError
from moco.runs.recipe import AUTO, find_recipe, read_recipe, shipped


class RecipeAction(ActionConfigFile):
    """Reads the file that a recipe's name stands for."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        path = find_recipe(str(values))
        read_recipe(path)
        super().__call__(parser, cfg, str(path), option_string)


def recipe_first(argv: list[str]) -> list[str]:
    """`argv` with `--recipe X` moved to the front, so that options win over it wherever they stand."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--recipe":
            value = next(words, None)
            if value is None:
                raise UserError(f"--recipe needs a name or a file; shipped: {', '.join([AUTO, *shipped()])}")
            front += [word, value]
        elif word.startswith("--recipe="):
            front.append(word)
        else:
            rest.append(word)
    return front + rest
