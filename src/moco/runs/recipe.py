"""Recipes: shipped names and YAML files, checked key by key before anything else happens."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from moco.automatic import Choice, as_values, choices, reasons, zoomed
from moco.config import Config, ViewsConfig, from_dict, unknown_keys
from moco.config_check import check
from moco.console import Silent, listening, say
from moco.errors import UserError, in_a_line, nearest
from moco.files import expanded

AUTO = "auto"


def recipe(name: str, **changes: Any) -> Config:
    """The configuration of a shipped recipe or a YAML file, with `changes`.

    A change is a field (`data="photos"`), a section's fields (`train={"epochs": 5}`), a whole section
    (`train=TrainConfig(5)`), or, in a mapping given with `**`, a dotted name (`**{"train.epochs": 5}`).
    `auto` looks at the images first: `data` must be among the changes, and what was chosen is said with its reasons.
    Raises `UserError` for an unknown name and for every value that can't be right.
    """
    if isinstance(changes.get("data"), os.PathLike):
        changes["data"] = os.fspath(changes["data"])
    made = automatic(changes.get("data"), changes) if name == AUTO else []
    values = as_values(made) if name == AUTO else read_recipe(find_recipe(name))
    for key, change in changes.items():
        section = is_dataclass(change) and not isinstance(change, type)
        _put(values, key.split("."), asdict(change) if section else change)
    config = from_dict(values)
    check(config)
    for line in reasons(made, config):
        say(line)
    return config


def automatic(data: str | None, changes: Mapping[str, Any]) -> list[Choice]:
    """What `auto` chooses for the images that `data` names, and for the device that `changes` ask for, or is there.

    Raises `UserError` where there are no images to look at.
    """
    import torch

    from moco.data.dataset import facts  # what names a recipe needn't wait for torch

    with listening(Silent()):  # the census is the packing's to say
        _, short_side = facts(data, from_dict({"store": _section(changes, "store")}).store)
    device = _section(changes, "runtime").get("device", "auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    made = choices(short_side, str(device).split(":")[0], _section(changes, "train").get("epochs"))
    chosen = from_dict(as_values(made))
    views = replace(chosen.views, size=_section(changes, "views").get("size", chosen.views.size))
    backbone = _section(changes, "model").get("backbone", chosen.model.backbone)
    zooms = zoomed(views.size)
    return [*made, *(zoom for zoom in zooms if _takes(backbone, replace(views, eval_zoom=zoom.value)))]


def _takes(backbone: str, views: ViewsConfig) -> bool:
    """Whether a network takes views of the size that `auto` would evaluate at, too."""
    from moco.model.backbone import check_backbone

    try:
        check_backbone(backbone, views.size, also=(views.centre_size,))
    except UserError:  # of one size, as transformers are; what else is wrong with it is said when it is made
        return False
    return True


def shipped() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = Path(str(resources.files("moco") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """The file of a shipped recipe or of a path. Raises `UserError` with the nearest names if there is none."""
    recipes = shipped()
    if name in recipes:
        return recipes[name]
    path = expanded(name, "--recipe")
    if path.is_file():
        return path
    raise UserError(f"no recipe {name!r}: {nearest(name, [AUTO, *recipes])} (or give a YAML file)")


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe's values. Raises `UserError` naming every key that is unknown or stands twice, or the YAML mistake."""
    try:
        text = path.read_text(encoding="utf-8")
        node, values = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"recipe {path}: {in_a_line(error)}") from error
    if values is None:
        raise UserError(f"recipe {path} is empty: give it at least one option, `train: {{epochs: 20}}` say")
    problems = _twice(node) + unknown_keys(values, Config)
    if problems:
        raise UserError(f"recipe {path}: " + "; ".join(problems))
    return values


def _section(changes: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The fields of a section that `changes` give, in whichever way."""
    whole = changes.get(name, {})
    found = asdict(whole) if is_dataclass(whole) and not isinstance(whole, type) else dict(whole)
    return found | {key.split(".", 1)[1]: value for key, value in changes.items() if key.startswith(f"{name}.")}


def _twice(node: Any, prefix: str = "") -> list[str]:
    """One phrase for each key that stands twice in a mapping: YAML would take the last and not say so."""
    if not isinstance(node, yaml.MappingNode):
        return []
    found, seen = [], set()
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if name in seen:
            found.append(f"{name} stands twice (line {key.start_mark.line + 1})")
        seen.add(name)
        found += _twice(value, f"{name}.")
    return found


def _put(values: dict[str, Any], path: list[str], change: Any) -> None:
    """Set what `path` names; a mapping changes the keys it has and leaves the others."""
    for name in path[:-1]:
        values = values.setdefault(name, {})
    if isinstance(change, Mapping) and isinstance(values.get(path[-1]), dict):
        for key, inner in change.items():
            _put(values[path[-1]], [key], inner)
    else:
        values[path[-1]] = dict(change) if isinstance(change, Mapping) else change
