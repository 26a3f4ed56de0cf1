"""`moco verify`: a stretch of a run trained again and compared, with its records."""

from __future__ import annotations

from typing import Any

from moco.commands.parsing import Parser, json_file
from moco.errors import FoundProblems
from moco.rundir import RunDir

PROGRAM = "moco verify"


def parser() -> Parser:
    made = Parser(
        "verify",
        "Train a stretch of a run again, from one of its checkpoints, and compare losses and weights: to the bit on "
        "the same kind of processor, within a tolerance on another. Data, configuration and metrics are compared with "
        "what was recorded. Nothing in the run changes; exit code 1 if anything doesn't agree.",
        "moco verify runs/a",
    )
    made.add_argument("run", help="run directory")
    made.add_argument("--steps", type=int, default=50, help="at most so many steps")
    made.add_argument("--begin", type=int, metavar="STEP", help="of a checkpoint, or 0; default: the newest possible")
    made.add_argument("--json", metavar="FILE", help="write what was found there too")
    return made


def run(args: Any) -> None:
    """Print what was compared. Raises `FoundProblems` with what doesn't agree."""
    RunDir.open(args.run)  # a wrong name is answered before torch is loaded
    out = json_file(args.json, PROGRAM)
    from moco.files import write_json
    from moco.reporting.ours import signed
    from moco.runs.verify import verify

    found = verify(args.run, args.steps, args.begin)
    if out is not None:
        write_json(out, signed({"run": args.run, **found.as_dict()}, PROGRAM))
    if found.problems:
        raise FoundProblems(f"{args.run} is not what it says: {'; '.join(found.problems)}")
    stretch = f"steps {found.first} to {found.last}"
    if found.differences:
        print(f"{stretch}: each loss within {found.worst:.1e} of the recorded ({'; '.join(found.differences)})")
    else:
        weights = f", {found.tensors} tensors of step {found.last} to the bit" if found.tensors else ""
        print(f"{stretch}: {found.losses} losses as recorded, to the last digit{weights}")
    print("data, configuration and metrics are what was recorded")
