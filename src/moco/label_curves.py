"""Accuracy against the number of labels, as a typed record that writes and reads its own JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from moco.errors import UserError
from moco.files import read_json, write_text

TITLES = {
    "frozen": "pre-trained, frozen",
    "random": "random weights, frozen",
    "pixels": "raw pixels",
    "finetuned": "pre-trained, fine-tuned",
    "scratch": "trained from scratch",
}
SPOKEN_SHARE = 0.1  # of the labels: what the sentence is about, or the measured share that is nearest


@dataclass(frozen=True)
class LabelPoint:
    """One number of labels.

    Attributes:
        share: of every class's labels, from 0 to 1.
        images: labelled images.
        top1: share of all validation images classified right, one for each draw.
        weight_decays: of each draw's logistic regression, chosen on its own labels; None where nothing was chosen.
    """

    share: float
    images: int
    top1: list[float]
    weight_decays: list[float] | None = None

    @property
    def mean(self) -> float:
        """Over the draws."""
        return sum(self.top1) / len(self.top1)

    @property
    def half_width(self) -> float | None:
        """Of the 95 % interval of the mean over draws; None for a single one."""
        return interval(self.top1)


@dataclass(frozen=True)
class LabelCurve:
    """What one way of using labels reaches: a name of `TITLES`, and points by ascending share."""

    name: str
    points: list[LabelPoint]

    @property
    def title(self) -> str:
        """For people."""
        return TITLES.get(self.name, self.name)

    def at(self, share: float) -> LabelPoint | None:
        """The point of `share`, None where it wasn't measured."""
        return next((point for point in self.points if math.isclose(point.share, share)), None)


@dataclass(frozen=True)
class LabelsResult:
    """`labels.json`: accuracy on validation against the number of labels.

    Attributes:
        checkpoint, step, epoch: the backbone's.
        data, data_sha256: what was classified, and the fingerprint of each split.
        seed, draws: of the labelled images.
        train_images, val_images: how many there are in all.
        classes: their names, in label order.
        curves: one for each way of using the labels, with the same draws.
        seconds: how long it took.
        environment: versions and hardware.
    """

    checkpoint: str
    step: int
    epoch: int
    data: str | None
    data_sha256: dict[str, str]
    seed: int
    draws: int
    train_images: int
    val_images: int
    classes: list[str]
    curves: list[LabelCurve]
    seconds: float
    environment: dict[str, Any] = field(default_factory=dict)

    def curve(self, name: str) -> LabelCurve:
        """The curve called `name`, which must be there."""
        return next(curve for curve in self.curves if curve.name == name)

    @property
    def sentence(self) -> str:
        """What it comes to, in one plain sentence."""
        said = sentence(self.curve("frozen"), self.curve("random"))
        if not any(curve.name == "finetuned" for curve in self.curves):
            return said
        tuned, scratch = (spoken_of(self.curve(name)) for name in ("finetuned", "scratch"))
        return f"{said}; fine-tuned it reaches {share_text(tuned.mean)}, from scratch {share_text(scratch.mean)}"

    def save(self, path: Path) -> None:
        """Write it, whole or not at all, with the sentence and each point's mean and interval."""
        values = asdict(self)
        for curve, written in zip(self.curves, values["curves"]):
            for point, entry in zip(curve.points, written["points"]):
                entry |= {"mean": point.mean, "half_width": point.half_width}
        write_text(path, json.dumps({"sentence": self.sentence, **values}, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> LabelsResult:
        """Read it. Raises `UserError` if it is missing, damaged, or something else."""
        values = read_json(path, "labels' result")
        try:
            curves = [
                LabelCurve(
                    curve["name"],
                    [LabelPoint(p["share"], p["images"], p["top1"], p["weight_decays"]) for p in curve["points"]],
                )
                for curve in values["curves"]
            ]
            known = {f.name for f in fields(cls)}
            return cls(**{name: v for name, v in values.items() if name in known} | {"curves": curves})
        except (TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path} is no LabelsResult that this version of moco reads") from error


def interval(values: Sequence[float]) -> float | None:
    """Half the width of Student's 95 % interval of the mean of `values`; None for fewer than two."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit

    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return float(stdtrit(len(values) - 1, 0.975)) * math.sqrt(variance / len(values))


def sentence(trained: LabelCurve, random: LabelCurve) -> str:
    """How many labels the pre-training is worth, by the curves of the pre-trained and the untrained backbone.

    The draws are the same images for both, so that they are compared draw by draw.
    """
    spoken = spoken_of(trained)
    other = random.at(spoken.share)
    assert other is not None, "the curves have the same shares"
    figures = f"({share_text(spoken.mean)} and {share_text(other.mean)})"
    labels = f"{share_text(spoken.share)} of the labels"
    gains = [mine - theirs for mine, theirs in zip(spoken.top1, other.top1)]
    gain, spread = sum(gains) / len(gains), interval(gains)
    if spread is not None and abs(gain) <= spread:
        return f"with {labels} the pre-trained backbone and random weights can't be told apart by these draws {figures}"
    if gain <= 0:
        return f"pre-training does not help here: with {labels} it is no better than random weights {figures}"
    reached = share_to_reach(random, spoken.mean)
    if reached is None:
        last = random.points[-1]
        return (
            f"with {labels} the pre-trained backbone gets {share_text(spoken.mean)} right; random weights do not get "
            f"there with {share_text(last.share)} of them ({share_text(last.mean)})"
        )
    return (
        f"with {labels} the pre-trained backbone does what random weights need {share_text(reached)} for "
        f"({share_text(spoken.mean)} of the validation images right)"
    )


def spoken_of(curve: LabelCurve) -> LabelPoint:
    """The point that the sentence is about."""
    return min(curve.points, key=lambda point: abs(math.log(point.share / SPOKEN_SHARE)))


def share_to_reach(curve: LabelCurve, top1: float) -> float | None:
    """The smallest share of the labels for which `curve`, straight over log(share), is at `top1`; None if it isn't."""
    points = curve.points
    if points[0].mean >= top1:
        return points[0].share
    for low, high in pairwise(points):
        if low.mean < top1 <= high.mean:
            part = (top1 - low.mean) / (high.mean - low.mean)
            return low.share * (high.share / low.share) ** part
    return None


def share_text(share: float) -> str:
    """A share as the sentence says it: three digits."""
    return f"{100 * share:.3g} %"
