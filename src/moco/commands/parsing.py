"""The command lines' common parser: a wrong option is one line with the nearest valid ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse

from moco.errors import UserError, nearest

_TYPES = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "str": "a word", "NoneType": "null",
    "list[float]": "numbers as [0.1,0.2]", "list[int]": "whole numbers as [1,2]", "list": "a list as [1,2]",
    "dict": "options as {a: 1}",
}  # fmt: skip


class Parser(jsonargparse.ArgumentParser):
    """jsonargparse's parser, answering mistakes with `UserError` instead of usage text and a bare exit.

    `example` is a command line that works, shown at the end of `--help`.
    """

    def __init__(self, command: str, description: str, example: str, **kwargs: Any) -> None:
        super().__init__(
            prog=f"moco {command}",
            description=description,
            epilog=f"example:  {example}",
            exit_on_error=False,
            allow_abbrev=False,
            **kwargs,
        )

    def option_names(self) -> list[str]:
        """Every option this parser knows, as typed (`--model.backbone`)."""
        names = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        return [name for name in names if not any(other.startswith(name + ".") for other in names)]

    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        try:
            return super().parse_args(args, *rest, **kwargs)
        except jsonargparse.ArgumentError as error:
            self.error(str(error))

    def error(self, message: str, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise `UserError`: the first line of the parser's complaint, and the nearest valid option."""
        raise UserError(self._explain(message.strip()))

    def _explain(self, message: str) -> str:
        text = " ".join(message.split())
        unknown = re.search(r"[Uu]nrecognized arguments: (.+)", text) or re.search(
            r"Option '([^']+)' is not accepted", text
        )
        if unknown:
            options = [word.split("=")[0] for word in unknown.group(1).split() if word.startswith("-")]
            if options:
                return "; ".join(f"unknown option {o}: {nearest(o, self.option_names())}" for o in options)
            return f"unexpected argument {unknown.group(1)!r}; see {self.prog} --help"
        wrong_type = re.search(r'key "([^"]+)": (.+)', text)
        if wrong_type:
            reason = re.sub(r"<class '(\w+)'>", r"\1", wrong_type.group(2))
            said = _wrong_value(reason)
            text = f"--{wrong_type.group(1)}{f': {reason}' if said is None else f' {said}'}"
        return text if len(text) <= 400 else text[:400] + " ..."


def _wrong_value(reason: str) -> str | None:
    """What jsonargparse says of a value of the wrong type, as a person would: what it is, and what to give."""
    _, told, given = reason.rpartition(" value: ")
    union = re.search(r"Subtypes: \[(.+)\] Errors", reason)
    kinds = re.findall(r"[\w.]+(?:\[[^\]]*\])?", union.group(1)) if union else []
    kinds = kinds or re.findall(r"Expected a (?:typing\.)?(\w+(?:\[[^\]]*\])?)", reason)[:1]
    wanted = []
    for kind in kinds:
        if kind.removeprefix("typing.").startswith("Literal"):
            names = re.findall(r"'([^']+)'", kind)
            return f"is {given}, {nearest(given, names)}"
        wanted.append(_TYPES.get(kind))
    if not told or not wanted or None in wanted:
        return None
    return f"is {given}, give {' or '.join(map(str, wanted))}"


def json_file(given: str | None, program: str) -> Path | None:
    """Where `--json` asks `program` to write, if it does, looked at before the work.

    Raises `UserError` where there is no such folder, or something else is there already.
    """
    if given is None:
        return None
    from moco.reporting.ours import check_ours

    path = Path(given).expanduser()
    if not path.absolute().parent.is_dir():
        raise UserError(f"--json {given}: there is no such folder to write to")
    check_ours(path, program)
    return path
