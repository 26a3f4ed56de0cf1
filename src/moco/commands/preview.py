"""`moco preview`: what the network will see, as a picture or a page."""

from __future__ import annotations

import argparse
from typing import Any

from moco.commands.options import RecipeParser, config_of
from moco.config_check import check
from moco.errors import UserError

EXAMPLE = "moco preview --data photos --recipe imagenette --out views.png"


def parser() -> RecipeParser:
    """The options of a recipe, and where the picture goes."""
    told = "Draw the augmented views: per row the evaluation view, then pairs of views, with what was drawn for each."
    p = RecipeParser("preview", told, EXAMPLE)
    p.add_argument(
        "--out", type=str, default=argparse.SUPPRESS, metavar="FILE",
        help="a picture, NAME.png, or a page, NAME.html (default: preview.png, with --html preview.html)",
    )  # fmt: skip
    p.add_argument("--html", action="store_true", default=argparse.SUPPRESS, help="a page instead of a picture")
    p.add_argument("--rows", type=int, default=argparse.SUPPRESS, help="images shown (default: 8)")
    return p


def run(args: Any) -> None:
    """Write the picture. Raises `UserError` for bad options or data."""
    config = config_of(args)
    check(config)
    html, rows = bool(args.get("html")), args.get("rows", 8)
    out = args.get("out", "preview.html" if html else "preview.png")
    if html and not out.lower().endswith(".html"):
        raise UserError(f"--html makes a page: --out {out} has to end in .html")

    from moco.runs.preview import PAIRS, preview

    small = f", and {config.views.small_crops} small crops" if config.views.small_crops else ""
    print(f"{preview(config, out, rows)}: the evaluation view, then {PAIRS} pairs of views{small} of each image")
