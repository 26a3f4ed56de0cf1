"""A run's classifier on all training and validation images, and the named evaluators on its checkpoint."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from moco.data.catalog import DATASETS
from moco.environment import describe
from moco.errors import UserError, printable
from moco.evaluators.classifier import Classifier
from moco.evaluators.monitors import EVALUATORS, Measured, evaluate_features
from moco.evaluators.proof import fingerprint
from moco.evaluators.scores import classify
from moco.ranks import found
from moco.results import Evaluation
from moco.rundir import RunDir
from moco.runs.linear import CLASSIFIER
from moco.runs.splits import Opened, open_splits
from moco.runs.trained import open_run


def evaluate(
    run: str | os.PathLike[str], checkpoint: str | None = None, data: str | None = None, name: str | None = None
) -> Evaluation:
    """Score the run's linear classifier on every image of both splits, and write `evaluation.json`.

    That of a classification with a `name` is written beside it, in `linear-NAME/`, that of the run's own in the run.
    Started by torchrun or srun several processes share the work; the first one writes.

    Args:
        run: the run's path, or the run.
        checkpoint: as for `linear`; None for the one that the classifier was trained on.
        data: other labelled data with the same classes.
        name: of the linear classification, as it was given to `linear`.

    Raises:
        UserError: there is no classifier, or it fits neither the checkpoint nor the classes.
    """
    folder = RunDir.open(run)
    place = folder.linear_called(name)
    file = place / CLASSIFIER
    if not file.is_file():
        first = shlex.join(["moco", "linear", os.fspath(run), *(["--name", name] if name else [])])
        raise UserError(f"no classifier in {os.fspath(run if name is None else place)}: run `{first}` first")
    classifier = Classifier.load(file)
    which = checkpoint or classifier.about["checkpoint"]
    ranks = found()
    opened = open_splits(run, which, data, ranks)
    _check_fit(opened, classifier, run)
    scores = {
        name: classify(opened.frozen, classifier, split, f"evaluating {name}")
        for name, split in (("train", opened.train), ("val", opened.val))
    }
    evaluation = Evaluation(
        checkpoint=which,
        step=opened.step,
        epoch=opened.epoch,
        protocol=classifier.about["protocol"],
        data=opened.data,
        classes=classifier.classes,
        class_names=readable(classifier.classes),
        train=scores["train"],
        val=scores["val"],
        environment=describe(),
    )
    if ranks.is_main:
        evaluation.save(folder.evaluation_called(name))
    return evaluation


def evaluate_checkpoint(
    run: str | os.PathLike[str],
    names: Sequence[str] = tuple(EVALUATORS),
    checkpoint: str = "last",
    data: str | None = None,
) -> dict[str, float]:
    """What the evaluators called `names` say of a checkpoint, by column, as in training; nothing is written.

    Raises `UserError` as `linear` does, and for a name that there is no evaluator of.
    """
    options = open_run(run).config.monitor
    opened = open_splits(run, checkpoint, data)
    frozen = opened.frozen
    measured = Measured(
        frozen.measured(opened.train, "features, train"), frozen.measured(opened.val, "features, validation")
    )
    return evaluate_features(measured, options, names)


def readable(classes: list[str]) -> list[str]:
    """Class names for people: the catalog's where a folder is called by a number that it knows."""
    known = {folder: name for entry in DATASETS.values() for folder, name in entry.class_names.items()}
    return [known.get(name, name) for name in classes]


def _check_fit(opened: Opened, classifier: Classifier, run: str | os.PathLike[str]) -> None:
    """Raises `UserError` unless the classifier was trained on this backbone and has these classes."""
    about = classifier.about
    if fingerprint(opened.frozen.backbone) != about["backbone_sha256"]:
        quoted = shlex.quote(os.fspath(run))
        raise UserError(
            f"the classifier was trained on the {about['checkpoint']} checkpoint of step {about['step']}, "
            f"not on {opened.checkpoint} of step {opened.step}: "
            f"run `moco linear {quoted} --checkpoint {opened.checkpoint}` again"
        )
    classes = opened.train.classes
    if classes != classifier.classes:
        one_sided = [printable(name) for name in sorted(set(classes) ^ set(classifier.classes))]
        raise UserError(
            f"the classifier knows {len(classifier.classes)} classes, {printable(str(opened.data))} has "
            f"{len(classes)}: {', '.join(one_sided[:5])}{' ...' if len(one_sided) > 5 else ''} in one of them only"
        )
