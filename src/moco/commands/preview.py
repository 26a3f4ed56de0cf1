"""`moco preview`: what the network will see, as a picture."""

from __future__ import annotations

import argparse
from typing import Any

from moco.commands.options import RecipeParser, config_of
from moco.config_check import check

EXAMPLE = "moco preview --data photos --recipe imagenette --out views.png"


def parser() -> RecipeParser:
    """The options of a recipe, and where the picture goes."""
    p = RecipeParser("preview", "Draw the augmented views: per row the evaluation view, then pairs of views.", EXAMPLE)
    p.add_argument(
        "--out", type=str, default=argparse.SUPPRESS, metavar="PNG", help="the picture (default: preview.png)"
    )
    p.add_argument("--rows", type=int, default=argparse.SUPPRESS, help="images shown (default: 8)")
    return p


def run(args: Any) -> None:
    """Write the picture. Raises `UserError` for bad options or data."""
    config = config_of(args)
    check(config)
    out, rows = args.get("out", "preview.png"), args.get("rows", 8)

    from moco.runs.preview import PAIRS, preview

    print(f"{preview(config, out, rows)}: the evaluation view, then {PAIRS} pairs of views of each image")
