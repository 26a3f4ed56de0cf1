"""`moco pretrain`: train a backbone on images without labels."""

from __future__ import annotations

import argparse
from typing import Any

from moco.commands.options import RecipeParser, config_of
from moco.config import Config
from moco.config_check import check
from moco.errors import UserError
from moco.rundir import RunDir
from moco.words import value_of

EXAMPLE = "moco pretrain --recipe imagenette --data data/imagenette2 --out runs/a"


class PretrainParser(RecipeParser):
    """A resumed run starts from its own configuration instead of a recipe."""

    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        argv = list(args or [])
        resumed = value_of("--resume", argv)
        if resumed is not None:
            run = RunDir.open(resumed)
            run.read_config()
            argv = ["--recipe", str(run.config_file), *argv]
        return super().parse_args(argv, *rest, **kwargs)


def parser(look: bool = True) -> RecipeParser:
    """The command's options: those of `Config`, and where the run goes."""
    p = PretrainParser("pretrain", "Train a backbone on images without labels.", EXAMPLE, look)
    p.add_argument(
        "--out", type=str, default=argparse.SUPPRESS, metavar="DIR", help="new run directory (default: runs/<recipe>)"
    )
    p.add_argument("--resume", type=str, default=argparse.SUPPRESS, metavar="RUN", help="continue an interrupted run")
    p.add_argument("--overwrite", action="store_true", default=argparse.SUPPRESS, help="replace the run at --out")
    return p


def checked(args: Any) -> Config:
    """The configuration of parsed `args`. Raises `UserError` for what can't be right, without torch or the images."""
    config = config_of(args)
    check(config)
    if "resume" in args and ("out" in args or "overwrite" in args):
        raise UserError("--resume continues a run where it is: leave out --out and --overwrite")
    return config


def run(args: Any) -> None:
    """Start or continue a run. Raises `UserError` before anything is made if something can't be right."""
    config = checked(args)

    from moco.runs.pretrain import default_out, pretrain, resume

    if "resume" in args:
        resume(args.resume, config)
    else:
        pretrain(config, args.out if "out" in args else default_out(str(args.recipe[-1])), bool(args.get("overwrite")))
