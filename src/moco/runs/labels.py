"""Is pre-training worth it here, and how many labels does it take? Accuracy on validation against the labels used."""

from __future__ import annotations

import os
import shlex
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from moco.config import Config
from moco.console import say
from moco.environment import describe
from moco.errors import Interrupted
from moco.evaluators.classifier import top1
from moco.evaluators.draws import Amount, draw
from moco.evaluators.features import Features, LabelledFeatures
from moco.evaluators.few_labels import fit_few
from moco.evaluators.frozen import Frozen, evaluating
from moco.evaluators.logistic import MOST_IMAGES
from moco.evaluators.monitors import Measured
from moco.evaluators.sample import sample
from moco.files import locked, read_json
from moco.label_curves import LabelCurve, LabelPoint, LabelsResult
from moco.reporting.labels import write_labels_plot
from moco.results import FinetuneResult
from moco.rundir import RunDir
from moco.runs.finetune import finetune, resume_finetune
from moco.runs.finetune_options import FinetuneOptions, Tuning, default_name
from moco.runs.labels_options import LabelsOptions
from moco.runs.preparing_tuning import initial_backbone, run_identity
from moco.runs.splits import Opened, open_splits
from moco.runs.trained import Run, open_run

TUNED = {"finetuned": "run", "scratch": "scratch"}  # curves, and where their weights begin
TUNINGS = "labels-finetune"  # the folder in the run where the fine-tunings are
THUMBNAIL = 16  # px; the side of the raw pixels: a linear classifier does no better on more of them


@dataclass(frozen=True)
class Draws:
    """The labelled images of each share, ascending shares; one draw where the share is all."""

    shares: list[float]
    images: list[list[NDArray[np.int64]]]


def labels(
    run: str | os.PathLike[str],
    options: LabelsOptions | None = None,
    data: str | None = None,
    checkpoint: str = "last",
) -> LabelsResult:
    """Measure what the run's frozen backbone makes of few labels, beside random weights and raw pixels.

    Each gets a logistic regression on the same drawn images, its weight decay chosen on those alone, and is scored on
    every validation image. Writes `labels.json` and `plots/labels.png`.

    Args:
        run: the run's path, or the run.
        options: draws, shares, seed.
        data: other labelled data than the run was trained on.
        checkpoint: `last`, `best`, or the number of an epoch whose checkpoint was kept.

    Raises:
        UserError: options, data or checkpoint that can't be right; another process is at it in this run.
        Interrupted: in a fine-tuning, after a stop signal; the same call goes on.
    """
    options = options or LabelsOptions()
    shares = options.checked()
    folder = RunDir.open(run)
    busy = f"another `moco labels {shlex.quote(os.fspath(run))}` is at work: wait for it"
    with locked(folder.root / ".labels.lock", busy):
        started, began_with = time.perf_counter(), folder.identity()
        opened, trained = open_splits(run, checkpoint, data), open_run(run)
        drawn = draw_labels(opened.train.labels.cpu().numpy(), shares, options)
        curves = [_curve(name, measured, drawn, opened) for name, measured in _measured(opened, trained.config)]
        if options.finetune:
            curves += [_tuned_curve(name, drawn, opened, options, trained, data) for name in TUNED]
        result = LabelsResult(
            checkpoint=checkpoint,
            step=opened.step,
            epoch=opened.epoch,
            data=opened.data,
            data_sha256=opened.data_sha256,
            seed=options.seed,
            draws=options.draws,
            train_images=len(opened.train),
            val_images=len(opened.val),
            classes=opened.train.classes,
            curves=curves,
            seconds=time.perf_counter() - started,
            environment=describe(),
        )
        folder.check_same(began_with)
        result.save(folder.labels_file)
        config = trained.config
        title = f"{folder.root.resolve().name}  ({config.model.backbone}, {config.views.size} px)"
        write_labels_plot(result, title, folder.plots / "labels.png")
    return result


def draw_labels(classes: NDArray[np.int64], shares: list[float], options: LabelsOptions) -> Draws:
    """The images that each draw labels, by the class (N,) of every training image."""

    def images(share: float) -> list[NDArray[np.int64]]:
        numbers = range(options.draws if share < 1 else 1)
        return [draw(classes, Amount(share), options.seed, number) for number in numbers]

    return Draws(shares, [images(share) for share in shares])


def _measured(opened: Opened, config: Config) -> list[tuple[str, Measured]]:
    """Features of both splits by the run's backbone, by the same one as its training began with, and raw pixels."""
    frozen = opened.frozen
    untrained = initial_backbone(config, config.seed).to(frozen.runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with evaluating(untrained):
        kinds: list[tuple[str, str, Frozen]] = [
            ("frozen", "pre-trained", frozen),
            ("random", "random weights", replace(frozen, backbone=untrained)),
            ("pixels", "raw pixels", replace(frozen, backbone=nn.Flatten(), size=min(THUMBNAIL, frozen.size))),
        ]
        return [
            (name, Measured(by.measured(opened.train, f"{title}, train"), by.measured(opened.val, f"{title}, val")))
            for name, title, by in kinds
        ]


def _curve(name: str, measured: Measured, drawn: Draws, opened: Opened) -> LabelCurve:
    """Logistic regressions on each draw; they are fitted on as many threads as there are, each by itself."""
    places = [(row, number) for row, images in enumerate(drawn.images) for number in range(len(images))]

    def fitted(place: tuple[int, int]) -> tuple[float, float]:
        row, number = place
        with torch.no_grad():  # belongs to a thread
            found = fit_few(_part(measured.train, drawn.images[row][number]), seed=number)
            return top1(found.logistic.logits, measured.val), found.weight_decay

    scores = dict(zip(places, opened.frozen.runtime.workers.map(fitted, places)))
    points = []
    for row, (share, images) in enumerate(zip(drawn.shares, drawn.images)):
        of_draws = [scores[row, number] for number in range(len(images))]
        points.append(LabelPoint(share, len(images[0]), [score for score, _ in of_draws], [d for _, d in of_draws]))
    curve = LabelCurve(name, points)
    say(f"{curve.title}: {points[0].mean:.1%} with {points[0].images} labels, {points[-1].mean:.1%} with all asked for")
    return curve


def _tuned_curve(
    name: str, drawn: Draws, opened: Opened, options: LabelsOptions, run: Run, data: str | None
) -> LabelCurve:
    """A fine-tuning on each draw, scored after its last epoch; those that an earlier call has done are taken."""
    source, points = TUNED[name], []
    for share, images in zip(drawn.shares, drawn.images):
        results = []
        for number, labelled in enumerate(images):
            asked = FinetuneOptions(f"{100 * share:.12g}%", number, options.finetune_epochs, seed=options.seed)
            decided = asked.decided(source, len(labelled), run.config.views.centre_cost * len(opened.val))
            tuning = Tuning(str(run.path.resolve()), opened.checkpoint, source, run.config, data, decided)
            results.append(_tuned(RunDir(run.path / TUNINGS / default_name(source, asked)), tuning, opened))
        points.append(LabelPoint(share, results[0].images, [result.last.top1 for result in results]))
    return LabelCurve(name, points)


def _tuned(place: RunDir, tuning: Tuning, opened: Opened) -> FinetuneResult:
    """The fine-tuning in `place`: the one that is there if it is just this one, gone on with if it was stopped."""
    try:
        if not _is_there(place, tuning, opened):
            say(f"{place.root.name}:")
            t = tuning
            return finetune(t.run, t.options, t.source, t.data, place.root, overwrite=True, checkpoint=t.which)
        return FinetuneResult.load(place.result_file) if place.result_file.is_file() else resume_finetune(place.root)
    except Interrupted as stop:
        raise Interrupted("stopped, and everything is saved: the same `moco labels` goes on with it") from stop


def _is_there(place: RunDir, tuning: Tuning, opened: Opened) -> bool:
    """Whether `place` has just this fine-tuning, of the same images and from the same weights."""
    if not (place.finetune_file.is_file() and place.environment_file.is_file()):
        return False
    began = read_json(place.environment_file, "environment")
    found = Tuning.from_dict(read_json(place.finetune_file, "fine-tuning"))
    same_run = began.get("run") == run_identity(tuning)
    found = replace(found, run=tuning.run, data=tuning.data)  # paths: a folder may have been moved, images are compared
    return found == tuning and same_run and began["data"] == opened.data_sha256 and began["run_step"] == opened.step


def _part(split: LabelledFeatures, images: NDArray[np.int64]) -> LabelledFeatures:
    """The features of `images`, of `MOST_IMAGES` of them where they are more."""
    chosen = torch.from_numpy(images[sample(len(images), MOST_IMAGES)]).to(split.labels.device)
    return LabelledFeatures(Features.of(split.features.rows(chosen)), split.labels[chosen], split.classes)
