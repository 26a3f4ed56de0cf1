"""The short help of the commands that have an option for each field of the configuration: what people change first."""

from __future__ import annotations

import re
import shutil
import textwrap
from argparse import SUPPRESS, Action
from collections.abc import Iterable, Mapping, Sequence

# The options of the configuration that people change first; `--help all` has every one.
FIRST: Mapping[str, Sequence[str]] = {
    "what is learned from": ("--recipe", "--data", "--views.size", "--store.cache"),
    "what learns": ("--model.backbone", "--model.queue_size", "--model.temperature", "--model.bn_splits"),
    "how long and how fast": ("--train.epochs", "--train.batch_size", "--optimizer.lr", "--optimizer.name"),
    "where it runs": ("--runtime.device", "--runtime.threads", "--seed"),
}
SHOWN_LAST = ("--help", "--print_config", "--config")  # said in words
MOST_WIDE = 110  # characters a line
INDENT = 26


def brief_help(prog: str, description: str, epilog: str, actions: Iterable[Action]) -> str:
    """The help as text: the command's own options, then `FIRST`'s, each with its first sentence."""
    by_name = {name: action for action in actions for name in action.option_strings if name.startswith("--")}
    told = {name for names in FIRST.values() for name in names}
    own = [name for name in by_name if "." not in name and name not in (*told, *SHOWN_LAST)]
    own = [name for name in own if by_name[name].help != SUPPRESS and not is_section(name, by_name)]
    groups = {"what comes of it": own, **FIRST}
    lines = [f"usage: {prog} [--data DATA] [options]", "", *textwrap.wrap(description, _width())]
    for title, names in groups.items():
        lines += ["", f"{title}:", *(line for name in names for line in _option(by_name[name], name))]
    lines += ["", f"What isn't given is the recipe's: {prog} ... --print_config shows all of it.",
              f"{prog} --help all: every option", "", epilog, ""]  # fmt: skip
    return "\n".join(lines)


def is_section(name: str, names: Iterable[str]) -> bool:
    """Whether an option stands for a group of options (`--model` for all `--model.*`)."""
    return any(other.startswith(f"{name}.") for other in names)


def _option(action: Action, name: str) -> list[str]:
    called = str(action.metavar or re.split(r"[._-]", name)[-1].upper())
    value = "" if action.nargs == 0 else f" {called.lstrip('-')}"
    said = re.split(r"\. |; `null`", " ".join((action.help or "").split()))[0].rstrip(".")
    text = textwrap.wrap(said, max(_width() - INDENT, 30))
    head = f"  {name}{value}"
    if len(head) > INDENT - 2:
        return [head, *(" " * INDENT + line for line in text)]
    return [f"{head:<{INDENT}}{text[0] if text else ''}", *(" " * INDENT + line for line in text[1:])]


def _width() -> int:
    return min(shutil.get_terminal_size().columns - 2, MOST_WIDE)
