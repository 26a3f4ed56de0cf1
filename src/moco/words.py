"""The words of a command line, looked at without its parser."""

from __future__ import annotations

from collections.abc import Sequence


def given(option: str, words: Sequence[str]) -> tuple[str, ...]:
    """`option` and its value as they first stand in `words`: two words, one with `=` in it, or none."""
    for number, word in enumerate(words):
        if word == option and number + 1 < len(words):
            return option, words[number + 1]
        if word.startswith(f"{option}="):
            return (word,)
    return ()


def value_of(option: str, words: Sequence[str]) -> str | None:
    """What `words` give for `option`, if they do."""
    found = given(option, words)
    if len(found) == 1:
        return found[0].removeprefix(f"{option}=")
    return found[1] if found else None


def named(words: Sequence[str]) -> set[str]:
    """The options that `words` name, without dashes."""
    return {word[2:].split("=")[0] for word in words if word.startswith("--")}


def without(option: str, words: Sequence[str]) -> list[str]:
    """`words` without `option` and its value."""
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == option:
            next(rest, None)
        elif not word.startswith(f"{option}="):
            kept.append(word)
    return kept
