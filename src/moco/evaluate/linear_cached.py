"""Linear classification, protocol `cached`: features once, then every learning rate and weight decay at once.

1. Features of the centre view and of a few augmented views (random resized crop and flip), extracted once.
2. A tenth of the training images, with all their views, is held out. A grid of heads trains on the others.
3. The head that does best on the held-out images wins (`best_head`); it is trained anew on all training images.

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

from moco.console import progress_bar
from moco.errors import UserError
from moco.evaluate.classifier import top1
from moco.evaluate.features import extract, features_of
from moco.evaluate.heads import Heads, Standard, train_heads
from moco.evaluate.protocol import Proof
from moco.randomness import Purpose, permutation
from moco.runtime import Runtime
from moco.views.make import Source, random_view
from moco.views.pipelines import Pipeline

# At the scale of `Standard` a head's loss has curvature 1/2 at most: these go from far too slow to unstable.
LEARNING_RATES = tuple(float(lr) for lr in np.geomspace(0.5, 500, 12))
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
        held_out_top1: the winner's, when it was chosen, on `held_out_images` images.
        rows: one per epoch of the last fit: epoch, lr (at the end), loss, train_top1 (centre views), and what the
            winner had on the held-out images after the same epoch of the search: held_out_loss, held_out_top1.
        grid: lr, weight_decay, held_out_top1 of every head.
    """

    weight: Tensor
    bias: Tensor
    lr: float
    weight_decay: float
    held_out_top1: float
    held_out_images: int
    rows: list[Row]
    grid: list[dict[str, float]]


def all_views(backbone: nn.Module, source: Source, size: int, passes: int, seed: int, runtime: Runtime) -> Tensor:
    """Features of the centre view and `passes` augmented ones, float32 (1 + passes, N, F), with progress bars."""
    pipeline = Pipeline(size, scale=CROP_SCALE)
    views = [features_of(backbone, source, size, runtime, progress="features, centre view")]
    for number in range(passes):

        def view(images: NDArray[np.int64], number: int = number) -> Tensor:
            return random_view(source, images, pipeline, seed, number, 0, Purpose.PROBE_VIEW)

        views.append(extract(backbone, len(source), view, runtime, progress=f"features, view {number + 1}/{passes}"))
    return torch.stack(views)


def linear_cached(
    features: Tensor, labels: Tensor, classes: int, options: CachedOptions, runtime: Runtime, proof: Proof
) -> Cached:
    """Search and fit on `features` float32 (V, N, F), view 0 the centre one, with `labels` int64 (N,).

    The heads compute in the runtime's precision; their weights are float32. Raises `UserError` for fewer
    than two images, and if every head diverges.
    """
    if len(labels) < 2:
        raise UserError(f"{len(labels)} labelled training images: linear classification needs two or more")
    standard = Standard.of(features.flatten(0, 1))
    z = standard.apply(features).to(torch.bfloat16 if runtime.precision == "bf16" else torch.float32)
    fit = _Fit(z, labels, classes, options, proof)
    held_out, kept = fit.split()
    grid = [(lr, decay) for lr in LEARNING_RATES for decay in WEIGHT_DECAYS]
    with progress_bar("heads") as bar:
        task = bar.add_task("searching", total=2 * options.epochs, rate=len(grid))
        fit.advance = lambda: bar.advance(task)
        history = fit.search(grid, held_out, kept)
        winner = best_head(*history[-1], len(held_out))
        bar.update(task, description="fitting the best", rate=1)
        heads, rows = fit.refit(*grid[winner])
    for row, (scores, losses) in zip(rows, history):
        row["held_out_top1"], row["held_out_loss"] = scores[winner].item(), losses[winner].item()
    final = history[-1][0].tolist()
    weight, bias = standard.fold(heads.weight[..., 0], heads.bias[:, 0])
    rows[-1]["train_top1"] = top1(F.linear(features[0], weight, bias), labels)  # as anyone will measure it, in float32
    return Cached(
        weight,
        bias,
        *grid[winner],
        held_out_top1=final[winner],
        held_out_images=len(held_out),
        rows=rows,
        grid=[{"lr": lr, "weight_decay": decay, "held_out_top1": t} for (lr, decay), t in zip(grid, final)],
    )


def best_head(scores: Tensor, losses: Tensor, images: int) -> int:
    """Of the heads whose top-1 (G,) on `images` held-out images is the highest, or as good as, the lowest loss (G,).

    As good as: not more than a standard error below it, for the best of many heads is partly luck. Diverged heads
    never win. Raises `UserError` if all have diverged.
    """
    finite = losses.isfinite()
    if not finite.any():
        raise UserError("every head of the grid diverged: are the backbone's features finite?")
    ranked = torch.where(finite, scores, -1.0)
    highest = ranked.max()
    margin = (highest * (1 - highest) / images).sqrt()
    return int(torch.where(ranked >= highest - margin, losses, torch.inf).argmin())


@dataclass
class _Fit:
    """The training of heads on standardised `z` (V, N, F)."""

    z: Tensor
    labels: Tensor
    classes: int
    options: CachedOptions
    proof: Proof
    advance: Callable[[], None] = lambda: None

    def split(self) -> tuple[Tensor, Tensor]:
        """Image numbers held out, and the others; at least one of each."""
        order = permutation(len(self.labels), self.options.seed, Purpose.PROBE_ORDER, _SPLIT)
        count = max(1, round(HELD_OUT * len(order)))
        held_out, kept = torch.from_numpy(order).to(self.z.device).tensor_split([count])
        return held_out, kept

    def search(self, grid: list[tuple[float, float]], held_out: Tensor, kept: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Train all heads on every view of the images `kept`; per epoch (top-1 (G,), loss (G,)) on `held_out`."""
        heads, true, history = self._heads(grid), self.labels[held_out, None], []

        def after_epoch(epoch: int, losses: Tensor, rate: float) -> None:
            logits = heads.logits(self.z[0, held_out])  # (n, C, G)
            nll = F.cross_entropy(logits, true.expand(-1, logits.shape[2]), reduction="none")
            history.append(((logits.argmax(1) == true).float().mean(0), nll.mean(0)))
            self.advance()

        self._train(heads, kept, _SEARCH, after_epoch)
        return history

    def refit(self, lr: float, weight_decay: float) -> tuple[Heads, list[Row]]:
        """One head on every view of every image, and a row per epoch."""
        heads, rows = self._heads([(lr, weight_decay)]), list[Row]()

        def after_epoch(epoch: int, losses: Tensor, rate: float) -> None:
            score = top1(heads.logits(self.z[0])[..., 0], self.labels)
            rows.append({"epoch": epoch + 1, "lr": rate * lr, "loss": losses.item(), "train_top1": score})
            self.advance()

        self._train(heads, torch.arange(len(self.labels), device=self.z.device), _REFIT, after_epoch)
        return heads, rows

    def _heads(self, grid: list[tuple[float, float]]) -> Heads:
        lr, weight_decay = torch.tensor(grid, dtype=torch.float32, device=self.z.device).T.contiguous()
        return Heads(self.z.shape[2], self.classes, lr, weight_decay)

    def _train(
        self, heads: Heads, images: Tensor, stage: int, after_epoch: Callable[[int, Tensor, float], None]
    ) -> None:
        """Train on all views of `images`, without a copy of them."""
        weight, bias = heads.weight.permute(2, 1, 0), heads.bias.T  # (G, C, F), (G, C)
        self.proof.trains({"weight": weight.squeeze(0), "bias": bias.squeeze(0)})
        views, count = len(self.z), len(self.labels)
        rows = (torch.arange(views, device=images.device)[:, None] * count + images).flatten()
        labels, o = self.labels.repeat(views), self.options
        train_heads(heads, self.z.flatten(0, 1), labels, rows, o.epochs, o.batch_size, o.seed, stage, after_epoch)
