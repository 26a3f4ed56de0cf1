"""`--recipe`: a shipped name or a YAML file, checked key by key before anything else happens."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile

from moco.config import Config, unknown_keys
from moco.errors import UserError, nearest


def shipped() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = Path(str(resources.files("moco") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """The file of a shipped recipe or of a path. Raises `UserError` with the nearest names if there is none."""
    recipes = shipped()
    if name in recipes:
        return recipes[name]
    path = Path(name).expanduser()
    if path.is_file():
        return path
    raise UserError(f"no recipe {name!r}: {nearest(name, recipes)} (or give a YAML file)")


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe's values. Raises `UserError` naming every unknown key, or the YAML mistake."""
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"recipe {path}: {' '.join(str(error).split())}") from error
    problems = unknown_keys({} if values is None else values, Config)
    if problems:
        raise UserError(f"recipe {path}: " + "; ".join(problems))
    return values or {}


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
                raise UserError(f"--recipe needs a name or a file; shipped: {', '.join(shipped())}")
            front += [word, value]
        elif word.startswith("--recipe="):
            front.append(word)
        else:
            rest.append(word)
    return front + rest
