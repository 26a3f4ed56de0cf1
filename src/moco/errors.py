"""The ways a command ends early on purpose, and how a wrong name is answered."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 75


class UserError(Exception):
    """The user's mistake: one line that says what is wrong and what would be right (exit code 2)."""


class TrainingFailed(Exception):
    """Training went wrong in a way nobody typed: a non-finite loss, say (exit code 1, one line)."""


class FoundProblems(Exception):
    """The doctor did its work and found something serious (exit code 1, one line)."""


class Interrupted(Exception):
    """A stop signal was obeyed: everything is saved and `--resume` continues (exit code 75)."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """One phrase that helps after a wrong `name`: the nearest of the `valid` names, or all of them."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    shown = names if len(names) <= 20 else [*names[:20], f"... ({len(names)} in all)"]
    return "valid: " + ", ".join(shown)
