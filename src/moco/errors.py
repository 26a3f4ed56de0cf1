"""The ways a command ends early on purpose, and how a wrong name is answered."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 75


class UserError(Exception):
    """The user's mistake: one line that says what is wrong and what would be right (exit code 2)."""


class Damaged(UserError):
    """A file of ours that isn't what was written: `reason` says how. One that can't be read for now is not damaged."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} is damaged ({reason})")
        self.reason = reason


class TrainingFailed(Exception):
    """Training went wrong in a way nobody typed: a non-finite loss, say (exit code 1, one line)."""


class FoundProblems(Exception):
    """The doctor did its work and found something serious (exit code 1, one line)."""


class Interrupted(Exception):
    """A stop signal was obeyed: everything is saved and `--resume` continues (exit code 75)."""


def says_damage(error: OSError) -> bool:
    """Whether an error of reading blames the file's bytes (a place that isn't there) and not the machine.

    No memory, no permission, a failing disk, too many open files: those pass, or are somebody else's to mend.
    """
    return error.errno in (None, errno.EINVAL)


def in_a_line(error: BaseException) -> str:
    """What an exception says, on one line of at most 200 characters; its kind where it says nothing."""
    told = getattr(error, "strerror", None) or str(error)
    return " ".join(str(told).split())[:200] or type(error).__name__


def nearest(name: str, valid: Iterable[str]) -> str:
    """One phrase that helps after a wrong `name`: the nearest of the `valid` names, or all of them."""
    names = sorted(set(valid))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    shown = names if len(names) <= 20 else [*names[:20], f"... ({len(names)} in all)"]
    return "valid: " + ", ".join(shown)
