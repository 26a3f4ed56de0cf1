"""`moco linear`: linear classification on the frozen backbone of a run."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from moco.commands.parsing import Parser
from moco.evaluators.linear_options import LinearOptions
from moco.rundir import RunDir


def parser() -> Parser:
    made = Parser(
        "linear",
        "Linear classification on a run's frozen backbone. `cached` extracts the features once and finds learning "
        "rate and weight decay by itself; `sgd` is the literature's protocol.",
        "moco linear runs/a    |    moco linear runs/a --protocol sgd --epochs 100 --lr 30",
    )
    made.add_argument("run", help="run directory of `moco pretrain`")
    made.add_argument(
        "--checkpoint", type=str, default="last", metavar="WHICH", help="last (default), best, or a kept epoch's number"
    )
    made.add_argument("--data", metavar="DIR", help="other labelled data than the run was trained on")
    made.add_argument("--name", metavar="NAME", help="keep it in RUN/linear-NAME: one for each data set")
    made.add_class_arguments(LinearOptions, nested_key=None)
    return made


def checked(args: Any) -> LinearOptions:
    """The options of parsed `args`. Raises `UserError` for a wrong value or run, without torch."""
    values = args.as_dict()
    options = LinearOptions(**{f.name: values[f.name] for f in fields(LinearOptions)})
    options.chosen()
    RunDir.open(args.run).linear_called(args.name)
    return options


def run(args: Any) -> None:
    """Train the classifier, store it with its metrics and result, and print what came out."""
    options = checked(args)
    from moco.commands.linear_summary import summary
    from moco.runs.linear import linear

    result = linear(args.run, options, args.checkpoint, args.data, args.name)
    print(summary(args.run, result, args.data, args.name))
