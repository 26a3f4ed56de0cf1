"""`moco pack`: the images of a place, packed into a store that travels."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from moco.commands.options import RecipeParser, config_of
from moco.config import Config, StoreConfig
from moco.config_check import check
from moco.errors import UserError
from moco.words import value_of

SAID_AGAIN = ("short_side", "labels", "holdout", "range")  # they decide what is in a store
EXAMPLE = "moco pack photos --recipe imagenette-cpu --out packed"


class PackParser(RecipeParser):
    """The first word, where it is no option, is the data."""

    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        argv = list(args or [])
        if argv and not argv[0].startswith("-"):
            if value_of("--data", argv) is not None:
                raise UserError(f"pack {argv[0]} and --data: they are the same, give one")
            argv = ["--data", *argv]
        return super().parse_args(argv, *rest, **kwargs)


def parser() -> RecipeParser:
    """The options of a recipe, of which the data, the store's and the size of the views count; and where it goes."""
    p = PackParser(
        "pack",
        "Decode, scale and pack images into a folder of chunk files, JPEGs, that `--data` takes: the recipe says how "
        "large. `moco pack DATA` and `moco pack --data DATA` are the same.",
        EXAMPLE,
    )
    p.add_argument("--out", type=str, default=argparse.SUPPRESS, metavar="STORE", help="a new or empty folder")
    return p


def run(args: Any) -> None:
    """Pack, and print what was made. Raises `UserError` for bad options or data."""
    config = config_of(args)
    check(config)
    if "out" not in args:
        raise UserError("--out STORE is missing: where the packed store goes")

    from moco.runs.pack import pack

    made = pack(config, args.out)
    images = ", ".join(f"{count:,} {split}" for split, count in made.images.items())
    print(f"{args.out}: {images} images, {made.bytes / 1e9:.2f} GB in {made.chunks} chunks")
    print(f"next: {shlex.join(['moco', 'pretrain', '--data', args.out, *_needed(config)])}")


def _needed(config: Config) -> Iterator[str]:
    """What of the options that it was packed with must be said again."""
    usual = asdict(StoreConfig())
    for name, value in asdict(replace(config.store, short_side=config.short_side)).items():
        if name in SAID_AGAIN and value != usual[name]:
            yield from (f"--store.{name}", str(value))
