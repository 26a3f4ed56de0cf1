"""`moco submit`: a command as a job of Slurm, with what follows it, or a whole sweep."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from moco.commands.parsing import Parser
from moco.console import say
from moco.data.catalog import DATASETS
from moco.data.folder import parts
from moco.data.remote import is_remote
from moco.errors import UserError, nearest
from moco.runs.recipe import AUTO
from moco.runs.slurm_options import SlurmOptions
from moco.runs.submit import changed, changed_tuning, plan, send, work_here
from moco.runs.sweep import combinations
from moco.words import named, value_of, without

SUBMITTED = ("pretrain", "finetune", "linear", "labels", "evaluate")
FLAGS = ("--dry-run", "--local", "--help", "-h")
_OVERWRITE = "--overwrite: a job that is queued again would replace its own run; give another --out"
OWN = ("--then", "--sweep", *FLAGS)


class SubmitParser(Parser):
    """Its own options, wherever they stand; all other words are the submitted command's."""

    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        own, others = split(list(args or []))
        parsed = super().parse_args(own, *rest, **kwargs)
        parsed.words = others
        return parsed


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """`argv` in two: the options of `moco submit`, each with its value in one word, and everything else."""
    own: list[str] = []
    others: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, _ = word.partition("=")
        if name not in OWN and not name.startswith("--slurm."):
            others.append(word)
        elif name in FLAGS or equals:
            own.append(word)
        else:
            value = next(words, None)
            if value is None:
                raise UserError(f"{name} needs a value")
            own.append(f"{name}={value}")
    return own, others


def parser() -> SubmitParser:
    """Options of the job; those of the submitted command are its own."""
    made = SubmitParser(
        "submit",
        "Send a command to Slurm: its options are checked now, the script is made and submitted. A run that reaches "
        "the time limit saves, queues again and goes on to the same bits.",
        "moco submit pretrain --recipe imagenette --data data/imagenette2 --out runs/a --slurm.time 4:00:00 "
        "--slurm.gpus 1 --then linear,evaluate",
    )
    made.usage = "moco submit COMMAND [its options] [--slurm.time ...] [--then ...] [--sweep ...] [--dry-run | --local]"
    made.add_argument("--then", type=str, metavar="WHAT", help="linear, evaluate, report: each after the one before it")
    made.add_argument(
        "--sweep",
        type=str,
        action="append",
        metavar="OPTION=A,B",
        help="a run for each value, in folders below --out; several make every combination",
    )
    made.add_argument("--dry-run", action="store_true", help="print the scripts, submit nothing")
    made.add_argument("--local", action="store_true", help="no Slurm: one after the other, on this machine")
    made.add_class_arguments(SlurmOptions, "slurm")
    return made


def run(args: Any) -> None:
    """Check everything, then print, do or submit it."""
    slurm = SlurmOptions(**args.slurm.as_dict()).checked()
    then = [word for word in (args.then or "").split(",") if word]
    sweep = args.sweep or []
    if not args.words or args.words[0] not in SUBMITTED:
        given = args.words[0] if args.words else ""
        raise UserError(f"moco submit what? {nearest(given, SUBMITTED)}")
    words, out = checked(args.words, sweep)
    jobs = plan(words, out, slurm, then, sweep)
    if args.dry_run:
        print("\n".join(job.script() for job in jobs), end="")
    elif args.local:
        work_here(jobs)
    else:
        for job in send(jobs):
            print(f"job {job.number}  {job.name}  {', '.join(job.runs)}")
        print("squeue --me shows them; scancel stops one, saved")


def checked(words: Sequence[str], sweep: Sequence[str]) -> tuple[list[str], str]:
    """The submitted command's words without `--out`, and the directory of its run or runs.

    Raises `UserError` for everything that its parser can tell without torch and without the images, of every
    combination of a sweep, and for a run at that place that is another one.
    """
    command = import_module(f"moco.commands.{words[0]}")
    if words[0] != "pretrain":
        if sweep:
            raise UserError("--sweep is for pretrain")
        parsed = command.parser().parse_args(list(words[1:]))
        options = command.checked(parsed)
        return _tuning(words, parsed, options) if words[0] == "finetune" else (list(words), parsed.run)
    _check_place(words, sweep)
    out = value_of("--resume", words) or value_of("--out", words) or ""
    parser = command.parser(look=False)
    elsewhere: set[str] = set()
    for one in combinations(sweep):
        parsed = parser.parse_args([*words[1:], *one.options])
        config = command.checked(parsed)
        if "resume" in parsed:
            continue
        if config.data is None:
            raise UserError("--data is missing: a folder, a tar, or a name from the catalog")
        elsewhere.update(_not_here(config.data))
        given = None if parsed.get("recipe") and AUTO not in words else named([*words, *one.options])
        place = str(Path(out) / one.name)
        if found := changed(place, config, given):
            raise UserError(f"{place} holds a run that began otherwise ({'; '.join(found)}): give another --out")
    for part in sorted(elsewhere):
        say(f"--data {part} isn't here: the job has to find it where it runs")
    return without("--out", words), out


def _not_here(data: str) -> list[str]:
    """The paths that `data` names and this machine hasn't; a cluster's nodes may have them."""
    paths = [part for part in parts(data) if part not in DATASETS and not is_remote(part)]
    return [part for part in paths if not Path(part).expanduser().exists()]


def _tuning(words: Sequence[str], parsed: Any, options: Any) -> tuple[list[str], str]:
    """`checked` of a fine-tuning."""
    from moco.commands.finetune import directory

    if parsed.overwrite:
        raise UserError(_OVERWRITE)
    place, values = directory(parsed, options), parsed.as_dict()
    if parsed.resume is not None:
        return list(words), place
    if found := changed_tuning(place, parsed.run, values["from"], parsed.checkpoint, parsed.data, options):
        began = f"{place} holds a fine-tuning that began otherwise ({'; '.join(found)})"
        raise UserError(f"{began}: give another --out")
    return without("--out", words), place


def _check_place(words: Sequence[str], sweep: Sequence[str]) -> None:
    """Raises `UserError` unless it is said where the run or runs go, in a way that a job can begin twice with."""
    resumed = value_of("--resume", words) is not None
    if "--overwrite" in words:
        raise UserError(_OVERWRITE)
    if sweep and resumed:
        raise UserError("--sweep begins runs: leave out --resume; those that are there below --out are gone on with")
    if not resumed and not value_of("--out", words):
        raise UserError("--out is missing: a job that is queued again has to know where its run is")
