"""A run in plain words: what was trained on what, how long, how good it is, and whether it looks healthy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moco.config import ViewsConfig
from moco.console import percent
from moco.reporting.contents import RunFacts
from moco.results import LinearResult

HARDLY = 0.02  # a gain in kNN top-1 that chance could make on a few thousand images


@dataclass(frozen=True)
class Verdict:
    """In a word and in a sentence or two; `good` None is "too early to say"."""

    good: bool | None
    word: Literal["healthy", "look again", "too early to say", "unfinished"]
    why: str


def sentences(run: RunFacts, train_images: int) -> list[str]:
    """What was trained and what came of it; `train_images` is 0 where that isn't known."""
    classified = [_classified(run, result) for result in run.named]
    return [*filter(None, (_trained(run, train_images), _neighbours(run), _logistic(run), _linear(run), *classified))]


def verdict(run: RunFacts) -> Verdict:
    """Whether it learns, from the health check of each epoch and from kNN against what needs no training."""
    if not run.rows:
        return Verdict(None, "too early to say", "No epoch has ended yet.")
    said = run.warnings
    last = int(run.rows[-1]["epoch"] or 0)
    if said and said[-1][0] == last:
        return Verdict(False, "look again", f"In the last epoch ({last}): {said[-1][1]}.")
    earlier = f" In epoch {said[-1][0]} it still said: {said[-1][1]}." if said else ""
    if run.health[0] is None:
        return Verdict(None, "too early to say", f"{run.health[2][:1].upper()}{run.health[2][1:]}.{earlier}")
    knn, before = run.last("knn_top1"), run.baseline.get("random_backbone_knn_top1")
    if knn is not None and before is not None and knn <= before:
        why = f"kNN is at {percent(knn, 1)}, no better than the backbone before training ({percent(before, 1)})."
        return Verdict(None, "too early to say", why + earlier)
    gained = " kNN has risen above the untrained backbone." if knn is not None and before is not None else ""
    if knn is not None and before is not None and knn - before < HARDLY:
        gained = " kNN is hardly above the untrained backbone yet."
    epochs = f"{len(run.rows)} epoch{'s' if len(run.rows) > 1 else ''}"
    clear = earlier or f" No sign of collapse, guessing or a leak in {epochs}."
    return Verdict(True, "healthy", (clear + gained).strip())


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _trained(run: RunFacts, train_images: int) -> str:
    get = run.config.get
    version = "v2 head" if get("model.mlp") else "v1 head"
    images = f"{train_images:,} images" if train_images else "the images"
    done, asked = len(run.rows), get("train.epochs")
    hardware = ", ".join(run.environment.get("gpus") or [])
    hardware = (
        hardware or f"{run.environment.get('processor', 'a processor')}, {run.environment.get('cores', '?')} cores"
    )
    views = ViewsConfig(size=run.config["views.size"], eval_zoom=get("views.eval_zoom", 1.0))
    measured = "" if views.centre_size == views.size else f" (evaluated at {views.centre_size} px)"
    return (
        f"{run.name}: a {get('model.backbone')} at {views.size} px{measured}, trained by MoCo ({version}, "
        f"{get('views.pipeline')} views, queue of {get('model.queue_size'):,}, T {get('model.temperature'):g}) on "
        f"{images} of {get('data')}, no label used, for {done} of {asked} epochs in {duration(run.seconds)} on "
        f"{hardware} ({run.environment.get('precision', '?')})."
    )


def _neighbours(run: RunFacts) -> str:
    best = run.best("knn_top1")
    if best is None:
        return "kNN was not measured: that needs labels, and images held out."
    of = " by the key encoder" if run.config.get("monitor.encoder") == "key" else ""
    text = f"kNN{of} names {percent(run.last('knn_top1'), 1)} of the validation images rightly"
    if best[0] > (run.last("knn_top1") or 0):
        text += f" (best: {percent(best[0], 1)} in epoch {best[1]})"
    pixels, random = (run.baseline.get(f"{name}_knn_top1") for name in ("raw_pixels", "random_backbone"))
    if pixels is not None and random is not None:
        text += f"; raw pixels give {percent(pixels, 1)}, the untrained backbone {percent(random, 1)}"
    return text + "."


def _logistic(run: RunFacts) -> str:
    value, train = run.last("logistic_val_top1"), run.last("logistic_train_top1")
    return "" if value is None else f"Logistic regression: {percent(value, 1)} ({percent(train, 1)} on train)."


def _linear(run: RunFacts) -> str:
    result = run.linear
    if result is None:
        return "" if run.best("knn_top1") is None else "There is no linear classification yet (moco linear makes one)."
    return _classified(run, result)


def _classified(run: RunFacts, result: LinearResult) -> str:
    chance = f"; guessing would give {percent(1 / len(result.classes), 1)}"
    now = len(run.rows)
    when = f"{result.checkpoint} checkpoint" + (f", epoch {result.epoch} of {now}" if result.epoch != now else "")
    other = f" of {data}" if (data := run.other_data(result)) else ""
    return (
        f"Linear classification{other} ({result.protocol}, {when}): {percent(result.val_top1)} of "
        f"{result.val_images:,} validation images, {percent(result.train_top1)} of {result.train_images:,} train "
        f"images{chance}."
    )
