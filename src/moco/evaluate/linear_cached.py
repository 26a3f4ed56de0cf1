"""Linear classification, protocol `cached`: features once, then every learning rate and weight decay at once.

1. Features of the centre view and of a few augmented views (random resized crop and flip), extracted once.
2. A tenth of the training images, with all their views, is held out. A grid of heads trains on the others.
3. The head with the best top-1 on the held-out images wins; it is trained anew on all training images.

The validation images are not touched: they are scored once, by whoever asked for the classifier.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from moco.console import progress_bar, say
from moco.errors import UserError
from moco.evaluate.classifier import top1
from moco.evaluate.features import extract, features_of
from moco.evaluate.heads import Heads, Standard, train_heads
from moco.evaluate.protocol import Proof
from moco.randomness import Purpose, permutation
from moco.runtime import Runtime
from moco.views.make import random_view
from moco.views.pipelines import Pipeline
from moco.views.ragged import Ragged

# At the scale of `Standard`, the loss of a head has curvature 1/2 at most: these span far too slow to unstable.
LEARNING_RATES = tuple(float(lr) for lr in np.geomspace(0.1, 200, 12))
WEIGHT_DECAYS = (1e-6, 1e-5, 1e-4, 1e-3)
HELD_OUT = 0.1
CROP_SCALE = (0.08, 1.0)  # of the image's area, as in supervised training (MoCo v1 section 4.1)
_SPLIT, _SEARCH, _REFIT = range(3)  # what a draw of `Purpose.PROBE_ORDER` is for

Row = dict[str, float | int | None]


@dataclass(frozen=True)
class CachedOptions:
    """How it is done.

    Attributes:
        passes: augmented views of each image beside the centre one.
        epochs: over all views.
        batch_size: views a step.
        seed: of views, order and hold-out.
    """

    passes: int = 3
    epochs: int = 10
    batch_size: int = 1024
    seed: int = 0


@dataclass(frozen=True)
class Cached:
    """The result.

    Attributes:
        weight, bias: float32 (C, F) and (C,), on features as the backbone gives them.
        lr, weight_decay: the winner's, at the scale of `Standard`.
        held_out_top1: the winner's, when it was chosen.
        held_out_images: how many images chose it.
        train_top1: on the centre views of all training images.
        rows: one per epoch of the last fit: epoch, lr, loss, train_top1, and what the winner had on the held-out
            images after the same epoch of the search: held_out_loss, held_out_top1.
        grid: held-out top-1 of every head: lr, weight_decay, top1.
    """

    weight: Tensor
    bias: Tensor
    lr: float
    weight_decay: float
    held_out_top1: float
    held_out_images: int
    train_top1: float
    rows: list[Row]
    grid: list[tuple[float, float, float]]


def all_views(
    backbone: nn.Module, source: Ragged, size: int, passes: int, seed: int, runtime: Runtime
) -> Tensor:
    """Features of the centre view and `passes` augmented ones, float32 (1 + passes, N, F)."""
    pipeline = Pipeline(size, scale=CROP_SCALE)
    views = [features_of(backbone, source, size, runtime, progress="features of the centre view")]
    for number in range(passes):

        def view(images: NDArray[np.int64], number: int = number) -> Tensor:
            return random_view(source, images, pipeline, seed, number, 0, Purpose.PROBE_VIEW)

        name = f"features of augmented view {number + 1}/{passes}"
        views.append(extract(backbone, len(source), view, runtime, progress=name))
    return torch.stack(views)


def linear_cached(
    features: Tensor, labels: Tensor, classes: int, options: CachedOptions, runtime: Runtime, proof: Proof
) -> Cached:
    """Search and fit on `features` float32 (V, N, F), view 0 the centre one, with `labels` int64 (N,).

    The heads compute in the runtime's precision; their weights are float32. Raises `UserError` for fewer
    than two images.
    """
    if len(labels) < 2:
        raise UserError(f"{len(labels)} labelled training image: linear classification needs two or more")
    standard = Standard.of(features.flatten(0, 1))
    z = standard.apply(features).to(torch.bfloat16 if runtime.precision == "bf16" else torch.float32)
    order = torch.from_numpy(permutation(len(labels), options.seed, Purpose.PROBE_ORDER, _SPLIT)).to(z.device)
    held_out, kept = order.tensor_split([max(1, round(HELD_OUT * len(labels)))])
    rates, decays = (axis.flatten() for axis in torch.meshgrid(
        torch.tensor(LEARNING_RATES, device=z.device), torch.tensor(WEIGHT_DECAYS, device=z.device), indexing="ij",
    ))  # fmt: skip
    with progress_bar("heads") as bar:
        task = bar.add_task("searching", total=2 * options.epochs, rate=len(rates))

        def advance() -> None:
            bar.advance(task)

        history = _search(z, labels, held_out, kept, Heads(z.shape[2], classes, rates, decays), options, advance)
        winner = best_head(*history[-1])
        bar.update(task, description="fitting the best", rate=1)
        heads = Heads(z.shape[2], classes, rates[winner : winner + 1], decays[winner : winner + 1])
        rows = _fit(z, labels, heads, options, proof, advance)
    for row, (scores, losses) in zip(rows, history):
        row["held_out_top1"], row["held_out_loss"] = scores[winner].item(), losses[winner].item()
    scores = history[-1][0]
    weight, bias = standard.fold(heads.weight[..., 0], heads.bias[:, 0])
    _warn_at_the_edge(rates[winner].item())
    return Cached(
        weight, bias, rates[winner].item(), decays[winner].item(), scores[winner].item(), len(held_out),
        top1(F.linear(features[0], weight, bias), labels), rows,
        list(zip(rates.tolist(), decays.tolist(), scores.tolist())),
    )  # fmt: skip


def best_head(scores: Tensor, losses: Tensor) -> int:
    """The head with the highest held-out top-1; among equals, the lowest loss. Diverged heads never win.

    Raises `UserError` if all have diverged.
    """
    finite = losses.isfinite()
    if not finite.any():
        raise UserError("no head has a finite loss: are the features finite?")
    ranked = torch.where(finite, scores, -1.0)
    return int(torch.where(ranked == ranked.max(), losses, torch.inf).argmin())


def _search(
    z: Tensor,
    labels: Tensor,
    held_out: Tensor,
    kept: Tensor,
    heads: Heads,
    options: CachedOptions,
    advance: Callable[[], None],
) -> list[tuple[Tensor, Tensor]]:
    """Train every head on all views of the images `kept`; (top-1 (G,), loss (G,)) on `held_out` after each epoch."""
    history = []
    true = labels[held_out]

    def after_epoch(epoch: int, losses: Tensor, rate: float) -> None:
        logits = heads.logits(z[0, held_out])  # (n, C, G)
        scores = (logits.argmax(1) == true[:, None]).float().mean(0)
        nll = F.cross_entropy(logits, true[:, None].expand(-1, logits.shape[2]), reduction="none").mean(0)
        history.append((scores, nll))
        advance()

    rows = z[:, kept].flatten(0, 1)
    train_heads(heads, rows, labels[kept].repeat(len(z)), options.epochs, options.batch_size, options.seed, _SEARCH, after_epoch)
    return history


def _fit(
    z: Tensor, labels: Tensor, heads: Heads, options: CachedOptions, proof: Proof, advance: Callable[[], None]
) -> list[Row]:
    """Train the one head of `heads` on all views of all images; a row per epoch."""
    rows: list[Row] = []

    def after_epoch(epoch: int, losses: Tensor, rate: float) -> None:
        score = top1(heads.logits(z[0])[..., 0], labels)
        lr = rate * heads.lr.item()
        rows.append({"epoch": epoch + 1, "lr": lr, "loss": losses.item(), "train_top1": score})
        advance()

    proof.trains({"weight": heads.weight, "bias": heads.bias})
    train_heads(heads, z.flatten(0, 1), labels.repeat(len(z)), options.epochs, options.batch_size, options.seed, _REFIT, after_epoch)
    return rows


def _warn_at_the_edge(lr: float) -> None:
    if lr in (LEARNING_RATES[0], LEARNING_RATES[-1]):
        say(f"the best learning rate, {lr:.3g}, is at the edge of the grid: more --epochs may do better")
