"""Every combination of swept options, and what each one's run is called."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from moco.errors import UserError

NOT_SWEPT = ("out", "resume", "overwrite", "recipe")
MOST_RUNS = 1000  # Slurm's usual limit for a job array


@dataclass(frozen=True)
class Combination:
    """One run of a sweep: its name, and its options as typed (`--seed=1`)."""

    name: str
    options: tuple[str, ...]


def combinations(sweep: Sequence[str]) -> list[Combination]:
    """One for each way to choose a value of every `KEY=VALUE,VALUE` in `sweep`, the last varying fastest.

    Without a sweep there is one, of no name and no options. Commas inside brackets are the value's own. Raises
    `UserError` for what isn't of that form, and for combinations whose names can't be told apart.
    """
    axes = [_axis(text) for text in sweep]
    keys = [key for key, _ in axes]
    if len(set(keys)) < len(keys):
        raise UserError(f"--sweep names {next(k for k in keys if keys.count(k) > 1)} twice: join its values by commas")
    shown = _short(keys)
    found = [
        Combination(
            "_".join(f"{name}={re.sub(r'[^A-Za-z0-9.+-]+', '-', value)}" for name, value in zip(shown, values)),
            tuple(f"--{key}={value}" for key, value in zip(keys, values)),
        )
        for values in itertools.product(*(values for _, values in axes))
    ]
    names = [combination.name for combination in found]
    if len(set(names)) < len(names):
        raise UserError(f"--sweep makes two runs called {next(n for n in names if names.count(n) > 1)}")
    if len(found) > MOST_RUNS:
        raise UserError(f"--sweep makes {len(found):,} runs, at most {MOST_RUNS:,} go into one call")
    return found


def _axis(text: str) -> tuple[str, list[str]]:
    key, equals, values = text.partition("=")
    key = key.lstrip("-")
    found = re.split(r",(?![^\[]*\])", values)
    if not equals or not key or "" in found:
        raise UserError(f"--sweep {text!r}: give OPTION=VALUE,VALUE, as in --sweep optimizer.lr=0.03,0.06")
    if key in NOT_SWEPT:
        raise UserError(f"--sweep {key}: that can't be swept, options of the configuration can (optimizer.lr, seed)")
    return key, found


def _short(keys: list[str]) -> list[str]:
    """The last part of each key, or the whole key where two end alike."""
    last = [key.rsplit(".", 1)[-1] for key in keys]
    return [short if last.count(short) == 1 else key for key, short in zip(keys, last)]
