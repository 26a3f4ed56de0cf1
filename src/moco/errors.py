"""The ways a command ends early on purpose, and how a wrong name is answered."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 75
EXIT_KEYBOARD = 130  # as shells have it: 128 + SIGINT
_OF_A_PATH = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP,
    errno.ENAMETOOLONG,
)  # fmt: skip
_NO_MEMORY = ("can't allocate memory", "not enough memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")


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


def out_of_memory(error: BaseException | None) -> str:
    """One phrase if `error`, or what it was raised from, is memory that ran out, on the host or a GPU; else empty.

    torch raises types of its own and plain RuntimeErrors; they are told by name and words, so that torch isn't loaded.
    """
    while error is not None:
        words = " ".join(str(error).split())
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if (
            kinds & {"MemoryError", "OutOfMemoryError"}
            or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
            or ("RuntimeError" in kinds and any(phrase in words for phrase in _NO_MEMORY))
        ):
            return f"out of memory ({words[:200]})" if words else "out of memory"
        error = error.__cause__
    return ""


def refused_by_the_system(error: BaseException) -> str:
    """One phrase if `error` is what the system said of a path that somebody named; empty for anything else."""
    if not isinstance(error, OSError) or error.filename is None or error.errno not in _OF_A_PATH:
        return ""
    return f"{os.fsdecode(error.filename)}: {in_a_line(error)}"


def in_a_line(error: BaseException) -> str:
    """What an exception says, on one line of at most 200 characters; its kind where it says nothing."""
    told = getattr(error, "strerror", None) or str(error)
    return " ".join(str(told).split())[:200] or type(error).__name__


def printable(name: str) -> str:
    """`name` on one line of a terminal: line breaks, control characters and undecodable bytes escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)


def nearest(name: str, valid: Iterable[str]) -> str:
    """One phrase that helps after a wrong `name`: the nearest of the `valid` names, or all of them."""
    names = sorted(set(valid))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    shown = names if len(names) <= 20 else [*names[:20], f"... ({len(names)} in all)"]
    return "valid: " + ", ".join(shown)
