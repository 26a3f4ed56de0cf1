"""The command `moco`: find the subcommand, run it, turn how it ended into an exit code.

Exit codes: 0 done, 1 a bug, a failed training or a serious finding of the doctor, 2 the user's mistake,
75 interrupted and resumable.
"""

from __future__ import annotations

import contextlib
import io
import sys
import traceback
from importlib import import_module

from moco import __version__
from moco.errors import (
    EXIT_INTERRUPTED,
    EXIT_KEYBOARD,
    EXIT_USER_ERROR,
    FoundProblems,
    Interrupted,
    TrainingFailed,
    UserError,
    nearest,
    out_of_memory,
    printable,
    refused_by_the_system,
)
from moco.ranks import found
from moco.words import named

COMMANDS = {
    "download": "fetch a known data set, verified",
    "pretrain": "train a backbone on images without labels",
    "linear": "linear classification on the frozen backbone",
    "evaluate": "accuracy on train and validation, all images",
    "verify": "a stretch of a run trained again, and compared with what it recorded",
    "report": "a page of one or several runs: curves, mistakes, a map, neighbours",
    "runs": "the runs in a folder, and what differs between two",
    "pack": "the images of a place, packed into a store that travels",
    "cache": "the packed stores: what of, how large, how long unused",
    "embed": "the features of every image, as a file",
    "search": "the nearest images of a feature file",
    "finetune": "train the whole network on labels, from a run's weights or from scratch",
    "labels": "accuracy against the number of labels: is pre-training worth it here?",
    "export": "a run's weights for other tools",
    "import": "weights that somebody else trained, as a run",
    "submit": "a command as a Slurm job, with what follows it, or a sweep of runs",
    "bench": "throughput here, against the limit of this machine",
    "doctor": "what is wrong with a folder of images: damage, duplicates, leaks",
    "preview": "the augmented views and what was drawn for each, as a picture or a page",
}

_LESS = "lower --train.batch_size, --views.size or --model.queue_size, or take a smaller --model.backbone"
# What an answer to "out of memory" can name; the other commands have nothing to lower.
LESS_MEMORY = {
    "pretrain": _LESS,
    "bench": _LESS,
    "linear": "lower --batch_size, or --passes",
    "embed": "lower --batch_size",
    "finetune": "lower --batch_size",
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {help}" for name, help in COMMANDS.items())
    return (
        "usage: moco COMMAND [options]\n\n"
        "Momentum Contrast (MoCo v1/v2): from a folder of images to a tested backbone.\n\n"
        f"commands:\n{rows}\n\n"
        "moco COMMAND --help says more.  example:  moco pretrain --data photos/ --out runs/a\n"
    )


def dispatch(argv: list[str]) -> None:
    """Run the command that `argv` names. Raises `UserError` for anything mistyped."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return
    if argv[0] in ("-V", "--version"):
        print(f"moco {__version__}")
        return
    name = argv[0]
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}: {nearest(name, COMMANDS)}")
    command = import_module(f"moco.commands.{name}")
    command.run(command.parser().parse_args(argv[1:]))


def _less_memory(argv: list[str]) -> str:
    resumes = "resume" in named(argv)
    if argv and argv[0] in LESS_MEMORY and not resumes:
        return LESS_MEMORY[argv[0]]
    return "free some, or take a machine with more" + (" (a resumed run keeps its batch)" if resumes else "")


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or file that can't show a letter gets its escape
            stream.reconfigure(errors="backslashreplace")
    name = "moco"
    try:
        ranks = found()
        if ranks.is_main:
            dispatch(sys.argv[1:] if argv is None else argv)
        else:
            name = f"moco, rank {ranks.rank}"
            with contextlib.redirect_stdout(io.StringIO()):  # the first process has said it
                dispatch(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        print(f"{name}: {printable(str(error))}", file=sys.stderr)
        return EXIT_USER_ERROR
    except Interrupted as stop:
        if name == "moco":  # all processes of a run stop together, and one says so
            print(f"{name}: {stop}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (TrainingFailed, FoundProblems) as failure:
        print(f"{name}: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("moco: interrupted before anything had to be saved", file=sys.stderr)
        return EXIT_KEYBOARD
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    except Exception as error:  # noqa: BLE001 - the last line of defence
        if complaint := out_of_memory(error):
            print(f"moco: {complaint}: {_less_memory(sys.argv[1:] if argv is None else argv)}", file=sys.stderr)
            return EXIT_USER_ERROR
        if complaint := refused_by_the_system(error):
            print(f"moco: {printable(complaint)}", file=sys.stderr)
            return EXIT_USER_ERROR
        traceback.print_exc()  # a bug, shown whole
        print("moco: this is a bug in moco, please report the lines above", file=sys.stderr)
        return 1
    return 0
