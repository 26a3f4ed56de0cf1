"""A run's numbers checked without trust: a stretch of it trained again from one of its checkpoints, and compared."""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from moco import checkpoint
from moco.config import from_dict
from moco.console import progress, say
from moco.errors import UserError, in_a_line
from moco.evaluators.proof import fingerprint
from moco.machine import Precision
from moco.rundir import RunDir
from moco.runs.going_on import forbidden_changes
from moco.runs.preparing import Prepared, prepare
from moco.runs.pretrain import what_differs
from moco.tables import cell, read_csv

STEPS = 50
TOLERANCE = {"float32": 1e-3, "bf16": 2e-2}  # of a loss, relative, where the same bits can't be expected


@dataclass(frozen=True)
class Verification:
    """What a replay found.

    Attributes:
        first, last: steps replayed, from 1.
        differences: what is other here than where the run was trained; without any the bits must agree.
        losses: steps whose loss was compared.
        worst: the largest relative difference of a loss.
        tensors: tensors compared with a later checkpoint of the run; 0 where none lies at the end of the stretch.
        problems: what doesn't agree, in phrases; empty for a run that is what it says.
    """

    first: int
    last: int
    differences: list[str]
    losses: int = 0
    worst: float = 0.0
    tensors: int = 0
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def verify(run: str | os.PathLike[str], steps: int = STEPS, begin: int | None = None) -> Verification:
    """Train up to `steps` steps of `run` again, and compare the losses, the weights and the records.

    It begins at the checkpoint of step `begin` (0: at the very beginning), by default at the newest that steps are
    recorded after, and ends at the next checkpoint if that is within reach. Nothing is written. Raises `UserError`
    where there is nothing to replay, or the data is gone.
    """
    if steps < 1:
        raise UserError(f"--steps is {steps}, give 1 or more")
    folder = RunDir.open(run)
    config = folder.read_config()
    recorded = _recorded(folder.steps_file)
    found = {int(path.stem.removeprefix("step-")): path for path in checkpoint.numbered(folder.checkpoints)}
    start = _start(found, recorded, begin, folder.root)
    content = checkpoint.load(found[start]) if start in found else None
    newest = checkpoint.load_for_evaluation(folder.checkpoints, "last")
    about = (content or newest)["about"]
    quiet = replace(config, log=None)  # a tracker needn't be here
    prepared = prepare(quiet, Precision(about["precision"], "as this run began"), begins=content is None)
    opened = [each for each in (newest, content) if each is not None]
    problems = [*_of_the_configuration(opened, prepared), *_of_the_metrics(folder, newest, prepared)]
    problems += _of_the_names(folder, found)
    began_with = None if content is not None else folder.read_environment().get("start_sha256")
    if other := list(_other_inputs(about, prepared, began_with)):
        return Verification(start + 1, start, [], problems=[*problems, *other])
    if content is not None:
        prepared.training.load_state_dict(dict(content))
    goal = next((step for step in sorted(found) if start < step <= start + steps), min(start + steps, max(recorded)))
    later = checkpoint.load(found[goal]) if goal in found else None
    differences = _differences([each for each in (content, later, newest) if each is not None], prepared)
    say(f"replaying steps {start + 1} to {goal}" + (f": {'; '.join(differences)}" if differences else ""))
    tolerance = TOLERANCE[prepared.runtime.precision] if differences else 0.0
    compared, worst = _replay(prepared, recorded, goal, tolerance, problems)
    tensors = 0
    if later is not None:
        tensors = _compare(prepared, later, not differences, problems)
    return Verification(start + 1, goal, differences, compared, worst, tensors, problems)


def _differences(around: list[checkpoint.Content], prepared: Prepared) -> list[str]:
    """What changes bits between here and where the checkpoints `around` the stretch were made, each once.

    The stretch behind a checkpoint may have been trained by a resumed process elsewhere: the one at its end says so.
    """
    return list(dict.fromkeys(words for content in around for words in what_differs(content["about"], prepared)))


def _start(found: dict[int, Path], recorded: dict[int, Recorded], begin: int | None, root: Path) -> int:
    """The step that the replay begins after."""
    if not recorded:
        raise UserError(f"{root} has no recorded step (steps.csv) to compare with")
    possible = [step for step in sorted({0, *found}) if step + 1 in recorded]
    if not possible:
        raise UserError(f"{root} has no checkpoint that recorded steps (steps.csv) follow: nothing to compare")
    if begin is None:
        return possible[-1]
    if begin not in possible:
        raise UserError(f"--begin is {begin}, checkpoints with recorded steps after them: {possible}")
    return begin


class Recorded(NamedTuple):
    """A step in `steps.csv`."""

    rate: float
    loss: float


def _recorded(file: Path) -> dict[int, Recorded]:
    """Each step in `steps.csv`, by its number."""
    try:
        with file.open(newline="", encoding="utf-8") as rows:
            return {int(row["step"]): Recorded(float(row["lr"]), float(row["loss"])) for row in csv.DictReader(rows)}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{file} can't be read as a table of steps: {in_a_line(error)}") from error


def _other_inputs(about: dict[str, Any], prepared: Prepared, began_with: str | None) -> Iterator[str]:
    """What the run was trained on, or began with, and isn't there any more: nothing can be replayed then."""
    if about["data"] != prepared.about["data"]:
        yield "the images are not those that it was trained on"
    if about.get("groups") not in (None, prepared.about["groups"]):
        yield f"{prepared.config.model.mask_groups} has other groups than it was trained with"
    if began_with is not None and began_with != fingerprint(prepared.training.model):
        yield f"{prepared.config.model.init} holds other weights than it began with: --begin a checkpoint of its own"


def _of_the_configuration(opened: list[checkpoint.Content], prepared: Prepared) -> Iterator[str]:
    """What config.yaml says otherwise than the checkpoints, each once."""
    changes = [forbidden_changes(from_dict(content["config"]), prepared.config) for content in opened]
    for words in dict.fromkeys("; ".join(found) for found in changes if found):
        yield f"config.yaml isn't the checkpoint's: {words}"


def _of_the_metrics(folder: RunDir, content: checkpoint.Content, prepared: Prepared) -> Iterator[str]:
    """What metrics.csv says otherwise than the newest checkpoint."""
    rows = content["state"]["rows"]
    table = read_csv(folder.metrics_file) if folder.metrics_file.is_file() else []
    if len(table) > len(rows) and len(rows) < (prepared.config.train.epochs or 0):  # killed before it saved again
        say(f"metrics.csv, epochs {len(rows) + 1} to {len(table)}: after the newest checkpoint, not checked")
    elif len(table) != len(rows):
        yield f"metrics.csv has {len(table)} epochs, the newest checkpoint {len(rows)}"
    for written, row in zip(table, rows):
        wrong = [n for n in {**row, **written} if cell(row.get(n)) != cell(written.get(n))]
        if wrong:
            yield f"metrics.csv, epoch {row['epoch']}: {', '.join(wrong)} differ from the checkpoint's"


def _of_the_names(folder: RunDir, found: dict[int, Path]) -> Iterator[str]:
    """Which of the other names of checkpoints, `last.pt` say, isn't the checkpoint of its step, where that is there."""
    for path in checkpoint.named(folder.checkpoints):
        content = checkpoint.load(path)
        twin = found.get(content["step"])
        if twin is None or twin.samefile(path):
            continue
        mine, its = (dict(_tensors({"model": c["model"]})) for c in (content, checkpoint.load(twin)))
        if mine.keys() != its.keys() or not all(torch.equal(mine[name], its[name]) for name in mine):
            yield f"{path.name} says that it is of step {content['step']}, and isn't {twin.name}"


def _replay(
    prepared: Prepared, recorded: dict[int, Recorded], goal: int, tolerance: float, problems: list[str]
) -> tuple[int, float]:
    """Train up to step `goal`: (steps compared, largest relative difference of a loss).

    Raises `UserError` at a step that another learning rate was recorded for: what is to be compared isn't the same.
    """
    training = prepared.training
    training.model.train()
    wrong, worst, compared = [], 0.0, 0
    first = training.progress.step
    with progress("replaying", goal - first, "steps/s") as bar:
        while (step := training.progress.step) < goal:
            batches = training.sampler.order(training.epoch)
            for images in itertools.islice(batches, step % training.sampler.steps_per_epoch, None):
                loss = training.step(images).loss.item()
                number = training.progress.step
                bar.update(number - first)
                told = recorded.get(number)
                if told is not None:
                    if not problems:  # one of them may be the rate's own reason
                        _check_rate(prepared, number, told)
                    apart = 0.0 if cell(loss) == cell(told.loss) else abs(loss - told.loss) / max(abs(told.loss), 1e-12)
                    worst, compared = max(worst, apart), compared + 1
                    if not apart <= tolerance:  # nor is a loss that is no number
                        wrong.append(number)
                if number == goal:
                    break
    if wrong:
        problems.append(f"the loss of {len(wrong)} of {compared} steps is another, first at step {wrong[0]}")
    return compared, worst


def _check_rate(prepared: Prepared, step: int, told: Recorded) -> None:
    rate = prepared.training.optimizer.param_groups[0]["lr"]
    if cell(rate) != cell(told.rate):
        raise UserError(
            f"step {step} was trained at the rate {told.rate:g} and is {rate:g} in the run's configuration: its epochs "
            "were changed afterwards; give --begin, a checkpoint of after that"
        )


def _compare(prepared: Prepared, later: checkpoint.Content, exact: bool, problems: list[str]) -> int:
    """How many tensors were compared with the `later` checkpoint's: to the bit, or their sizes alone."""
    own = prepared.training.state_dict()
    mine, theirs = (dict(_tensors({"model": c["model"], "optimizer": c["optimizer"]})) for c in (own, later))
    if mine.keys() != theirs.keys():
        problems.append(f"the checkpoint of step {later['step']} has other tensors")
        return 0
    if exact:
        wrong = [name for name, tensor in mine.items() if not torch.equal(tensor.cpu(), theirs[name])]
        if wrong:
            problems.append(f"{len(wrong)} of {len(mine)} tensors at step {later['step']} are others, as {wrong[0]}")
    return len(mine) if exact else 0


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in nested dictionaries, by its dotted name."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _tensors(inner, f"{name}.{key}" if name else str(key))
