"""`moco evaluate`: a run's classifier on all training and validation images."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from moco.commands.parsing import Parser
from moco.console import percent
from moco.errors import UserError

if TYPE_CHECKING:
    from moco.evaluate.classifier import Classifier
    from moco.evaluate.classify import Scores
    from moco.rundir import RunDir
    from moco.runs.trained import TrainedRun

MOST_COLUMNS = 20  # classes; a larger confusion matrix is in evaluation.json alone


def parser() -> Parser:
    made = Parser(
        "evaluate",
        "Accuracy of a run's linear classifier on all training and validation images: loss, top-1, every class, "
        "and what is taken for what.",
        "moco evaluate runs/a",
    )
    made.add_argument("run", help="run directory, after `moco linear`")
    made.add_argument(
        "--checkpoint", choices=("last", "best"), help="default: the one that the classifier was trained on"
    )
    made.add_argument("--data", metavar="DIR", help="other labelled data with the same classes")
    return made


def run(args: Any) -> None:
    """Print the tables and write `evaluation.json`. Raises `UserError` if the classifier doesn't fit."""
    from moco.rundir import RunDir

    place = RunDir.open(args.run)
    file = place.linear / "classifier.pt"
    if not file.is_file():
        raise UserError(f"no classifier in {args.run}: run `moco linear {args.run}` first")

    from moco.evaluate.classifier import Classifier
    from moco.evaluate.classify import classify
    from moco.runs.trained import open_trained

    classifier = Classifier.load(file)
    which = args.checkpoint or classifier.about["checkpoint"]
    trained = open_trained(args.run, which, args.data)
    data = trained.labelled()
    _check_fit(args, which, trained, classifier, data.classes)
    size = trained.config.views.size
    scores = {
        name: classify(trained.backbone, classifier, images, labels, size, trained.runtime, f"evaluating {name}")
        for name, images, labels in (("train", data.train, data.train_labels), ("val", data.val, data.val_labels))
    }
    _write(place, args.data or trained.config.data, which, trained, classifier, scores)
    print_tables(readable(data.classes), scores)
    print(f"{place.evaluation_file} holds the same\nnext:  moco report {args.run}")


def _check_fit(args: Any, which: str, trained: TrainedRun, classifier: Classifier, classes: list[str]) -> None:
    from moco.evaluate.protocol import fingerprint

    if fingerprint(trained.backbone) != classifier.about["backbone_sha256"]:
        about = classifier.about
        raise UserError(
            f"the classifier was trained on the {about['checkpoint']} checkpoint of step {about['step']}, "
            f"not on {which} of step {trained.step}: run `moco linear {args.run} --checkpoint {which}` again"
        )
    if classes != classifier.classes:
        missing = sorted(set(classes) ^ set(classifier.classes))
        raise UserError(
            f"the classifier knows {len(classifier.classes)} classes, {args.data or trained.config.data} has "
            f"{len(classes)}: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''} in one of them only"
        )


def readable(classes: list[str]) -> list[str]:
    """Class names for people: the catalog's where a folder is called by a number that it knows."""
    from moco.data.catalog import DATASETS

    known = {folder: name for entry in DATASETS.values() for folder, name in entry.class_names.items()}
    return [known.get(name, name) for name in classes]


def _write(
    place: RunDir, data: str | None, which: str, trained: TrainedRun, classifier: Classifier, scores: dict[str, Scores]
) -> None:
    from moco.environment import describe
    from moco.files import write_json

    write_json(
        place.evaluation_file,
        {
            "checkpoint": which,
            "step": trained.step,
            "epoch": trained.epoch,
            "protocol": classifier.about["protocol"],
            "data": data,
            "classes": classifier.classes,
            "class_names": readable(classifier.classes),
            **{
                split: {
                    "images": s.images,
                    "correct": s.correct,
                    "loss": s.loss,
                    "top1": s.top1,
                    "class_top1": dict(zip(classifier.classes, s.class_top1)),
                    "class_images": dict(zip(classifier.classes, s.class_images)),
                    "confusion": s.confusion.tolist(),
                }
                for split, s in scores.items()
            },
            "environment": describe(),
        },
    )


def print_tables(names: list[str], scores: dict[str, Scores]) -> None:
    """Two tables on stdout: accuracy by class and in all, and validation's confusion matrix if it isn't too wide."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    names = [escape(name) for name in names]
    table = Table("class", box=SIMPLE)
    for split in scores:
        for heading in (f"{split} images", f"{split} top-1"):
            table.add_column(heading, justify="right")
    for row, name in enumerate(names):
        cells = [(f"{s.class_images[row]:,}", percent(s.class_top1[row])) for s in scores.values()]
        table.add_row(name, *chain(*cells))
    table.add_section()
    table.add_row("all", *chain(*[(f"{s.images:,}", percent(s.top1)) for s in scores.values()]), style="bold")
    table.add_row("loss (nats)", *chain(*[("", f"{s.loss:.4f}") for s in scores.values()]))
    out = Console(highlight=False)
    if not out.is_terminal:
        out.width = 120  # a file or a pipe has no width of its own
    out.print("accuracy on all images", table)
    if len(names) <= MOST_COLUMNS:
        out.print("validation images by true class (rows) and predicted class (columns)")
        out.print(_confusion_table(names, scores["val"]))


def _confusion_table(names: list[str], scores: Scores) -> Any:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table("", "true class", box=SIMPLE)
    for number in range(len(names)):
        table.add_column(str(number + 1), justify="right")
    for number, (name, counts) in enumerate(zip(names, scores.confusion.tolist())):
        cells = [f"[bold]{n}[/]" if i == number else str(n or "·") for i, n in enumerate(counts)]
        table.add_row(str(number + 1), name, *cells)
    return table
