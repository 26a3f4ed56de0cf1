"""`moco finetune`: the whole network trained on labels, from a run's weights or from scratch."""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict, fields
from typing import Any

from moco.commands.parsing import Parser
from moco.console import percent
from moco.errors import UserError, printable
from moco.results import FinetuneResult
from moco.rundir import RunDir
from moco.runs.finetune_options import FinetuneOptions, default_name, open_tuning

MOST_ROWS = 1000  # classes; above, the table by class is in result.json alone


def parser() -> Parser:
    made = Parser(
        "finetune",
        "Train the whole network on labels, from a run's weights, and score it on all validation images; with "
        "--from scratch the same from random weights, to compare.",
        "moco finetune runs/a --labels 10%    |    moco finetune --resume runs/a/finetune-10pct",
    )
    made.add_argument("run", nargs="?", help="run directory of `moco pretrain`")
    made.add_argument("--from", default="run", metavar="run|scratch", help="where the weights begin (default: run)")
    made.add_argument("--data", metavar="DIR", help="other labelled data than the run was trained on")
    made.add_argument("--out", metavar="DIR", help="new directory (default: RUN/finetune-NAME)")
    made.add_argument("--overwrite", action="store_true", help="replace the fine-tuning that is there")
    made.add_argument("--resume", metavar="DIR", help="go on with an interrupted fine-tuning, by its own options")
    made.add_argument(
        "--checkpoint", type=str, default="last", metavar="WHICH", help="last (default), best, or a kept epoch's number"
    )
    made.add_class_arguments(FinetuneOptions, nested_key=None)
    return made


def checked(args: Any) -> FinetuneOptions:
    """The options of parsed `args`. Raises `UserError` for a wrong value, and where there is no run, without torch."""
    values = args.as_dict()
    options = FinetuneOptions(**{f.name: values[f.name] for f in fields(FinetuneOptions)}).checked()
    _check(values, options)
    if args.resume is None:
        RunDir.open(args.run)
    else:
        open_tuning(args.resume)
    return options


def directory(args: Any, options: FinetuneOptions) -> str:
    """Where the fine-tuning is, or will be, as it was typed."""
    return args.resume or args.out or os.path.join(args.run, default_name(args.as_dict()["from"], options))  # noqa: PTH118


def run(args: Any) -> None:
    """Train, and print the scores of the last and the best epoch and those of every class."""
    options = checked(args)
    if args.resume is not None:
        from moco.runs.finetune import resume_finetune

        print_result(resume_finetune(args.resume), args.resume, open_tuning(args.resume)[1].data)
        return
    from moco.runs.finetune import finetune

    source, place = args.as_dict()["from"], directory(args, options)
    made = finetune(args.run, options, source, args.data, place, args.overwrite, args.checkpoint)
    print_result(made, place, args.data)


def _check(values: dict[str, Any], options: FinetuneOptions) -> None:
    """Raises `UserError` unless there is either a run to begin with or a fine-tuning to go on with."""
    if values["resume"] is None:
        if values["run"] is None:
            raise UserError("which run? moco finetune RUN, or --resume RUN/finetune-NAME")
        if values["from"] not in ("run", "scratch"):
            raise UserError(f"--from is {values['from']!r}, valid: run, scratch")
        return
    usual: dict[str, Any] = {"run": None, "from": "run", "data": None, "out": None, "overwrite": False}
    given = [name for name, value in usual.items() if values[name] != value]
    if given or options != FinetuneOptions() or values["checkpoint"] != "last":
        raise UserError("--resume goes on by the fine-tuning's own options: leave out everything else")


def _as_asked(result: FinetuneResult, data: str | None) -> list[str]:
    """The options that make another fine-tuning one to compare: all but rates, which follow from its beginning."""
    usual = asdict(FinetuneOptions(labels="", epochs=0))  # these two are always told
    names = ("labels", "draw", "epochs", "batch_size", "optimizer", "scale_min", "balance", "seed")
    told = [(name, result.options[name]) for name in names if result.options.get(name) not in (None, usual[name])]
    return [*([] if data is None else ["--data", data]), *(w for name, v in told for w in (f"--{name}", str(v)))]


def print_result(result: FinetuneResult, place: str, data: str | None) -> None:
    """A table of the classes, and the scores: last, and best on validation; `data` as it was given."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = Console(highlight=False, markup=False, emoji=False)
    if not out.is_terminal:
        out.width = 120  # a file or a pipe has no width of its own
    table = Table("class", box=SIMPLE)
    for heading in ("labels", "validation images", "top-1, last epoch"):
        table.add_column(heading, justify="right")
    last = result.last
    if len(result.classes) <= MOST_ROWS:
        rows = zip(result.class_names, result.class_images, last.class_images, last.class_top1)
        for name, labels, images, top1 in rows:
            table.add_row(Text(printable(name)), f"{labels:,}", f"{images:,}", percent(top1))
        out.print(table)
    began = "from scratch" if result.source == "scratch" else f"from the {result.checkpoint} checkpoint of {result.run}"
    print(
        f"fine-tuned {began}, {result.images:,} labels, {result.epochs} epochs\n"
        f"  top-1  {percent(last.top1)} of {result.val_images:,} validation images after the last epoch\n"
        f"         {percent(result.best.top1)} after epoch {result.best_epoch}, the best (by validation: optimistic)\n"
        f"  {place} holds checkpoints, metrics.csv, result.json"
    )
    if result.source == "run":
        words = ["moco", "finetune", result.run, "--from", "scratch", *_as_asked(result, data)]
        print(f"next:  {shlex.join(words)}    # the same from random weights, to compare")
