"""Linear classification, protocol `cached`: features once, then every learning rate and weight decay at once.

1. Features of the centre view and of a few augmented views (random resized crop and flip), extracted once.
2. A tenth of the training images, with all their views, is held out. A grid of heads trains on the others.
3. The head that does best on the held-out images wins (`best_head`); it is trained anew on all training images.

The validation images are not touched: they are scored once, by whoever asked for the classifier.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moco.console import progress
from moco.errors import UserError
from moco.evaluators.classifier import top1
from moco.evaluators.features import BLOCK_VALUES, LabelledFeatures
from moco.evaluators.frozen import Frozen, Labelled
from moco.evaluators.heads import Heads, Passes, Standard, Table, train_heads
from moco.evaluators.linear_options import CachedOptions
from moco.evaluators.proof import Proof
from moco.randomness import Purpose, permutation
from moco.runtime import Runtime
from moco.tables import Row

# At the scale of `Standard` a head's loss has curvature 1/2 at most: these go from far too slow to unstable.
LEARNING_RATES = tuple(float(lr) for lr in np.geomspace(0.5, 500, 12))
WEIGHT_DECAYS = (1e-6, 1e-5, 1e-4, 1e-3)
HELD_OUT = 0.1
LEAST_EPOCHS, LEAST_STEPS = 10, 360  # unless asked otherwise; a small set takes more epochs, not fewer steps
GROUP_VALUES = 2**27  # weights, or logits of a batch, of the heads that are trained at once: 512 MiB
_SPLIT, _SEARCH, _REFIT = range(3)  # what a draw of `Purpose.PROBE_ORDER` is for


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
        options: as they were used.
    """

    weight: Tensor
    bias: Tensor
    lr: float
    weight_decay: float
    held_out_top1: float
    held_out_images: int
    rows: list[Row]
    grid: list[dict[str, float]]
    options: CachedOptions


def all_views(frozen: Frozen, split: Labelled, options: CachedOptions) -> LabelledFeatures:
    """Features of the centre view and of the augmented ones, 1 + passes in all, with progress bars."""
    views = [frozen.centre, *(frozen.crop(options.seed, number) for number in range(options.passes))]
    return LabelledFeatures(frozen.features(split.images, views, title="features"), split.labels, split.classes)


def linear_cached(train: LabelledFeatures, options: CachedOptions, runtime: Runtime, proof: Proof) -> Cached:
    """Search and fit on the features of all views, view 0 the centre one.

    The heads compute in the runtime's precision; their weights are float32. Raises `UserError` for fewer
    than two images, and if every head diverges.
    """
    if len(train) < 2:
        raise UserError(f"{len(train)} labelled training images: linear classification needs two or more")
    options = replace(options, epochs=epochs_of(options, train.features.views * len(train)))
    standard = Standard.of(train.features)
    dtype = torch.bfloat16 if runtime.precision == "bf16" else torch.float32
    fit = _Fit(Table(train.features, train.labels, standard, dtype), len(train.classes), options, proof)
    held_out, kept = fit.split()
    grid = [(lr, decay) for lr in LEARNING_RATES for decay in WEIGHT_DECAYS]
    groups = fit.groups(grid)
    done = 0
    with progress(f"searching, {len(grid)} heads", (len(groups) + 1) * (options.epochs or 0), "epochs/s") as bar:

        def advance() -> None:
            nonlocal done
            done += 1
            bar.update(done)

        fit.advance = advance
        history = fit.search(groups, held_out, kept)
        winner = best_head(*history[-1], len(held_out))
        bar.update(done, title="fitting the best")
        heads, rows = fit.refit(*grid[winner])
    for row, (scores, losses) in zip(rows, history):
        row["held_out_top1"], row["held_out_loss"] = scores[winner].item(), losses[winner].item()
    final = history[-1][0].tolist()
    weight, bias = standard.fold(heads.weight[..., 0], heads.bias[:, 0])
    # as anyone will measure it, in float32
    rows[-1]["train_top1"] = top1(lambda features: F.linear(features, weight, bias), train)
    return Cached(
        weight,
        bias,
        *grid[winner],
        held_out_top1=final[winner],
        held_out_images=len(held_out),
        rows=rows,
        grid=[{"lr": lr, "weight_decay": decay, "held_out_top1": t} for (lr, decay), t in zip(grid, final)],
        options=options,
    )


def epochs_of(options: CachedOptions, rows: int) -> int:
    """Passes over `rows` views: as asked for, or `LEAST_EPOCHS` and at least `LEAST_STEPS` steps."""
    if options.epochs is not None:
        return options.epochs
    return max(LEAST_EPOCHS, math.ceil(LEAST_STEPS / math.ceil(rows / options.batch_size)))


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
    """The training of heads on a table of `classes` classes."""

    table: Table
    classes: int
    options: CachedOptions
    proof: Proof
    advance: Callable[[], None] = lambda: None

    def split(self) -> tuple[Tensor, Tensor]:
        """Image numbers held out, and the others; at least one of each."""
        labels = self.table.labels
        order = permutation(len(labels), self.options.seed, Purpose.PROBE_ORDER, _SPLIT)
        count = max(1, round(HELD_OUT * len(order)))
        held_out, kept = torch.from_numpy(order).to(labels.device).tensor_split([count])
        return held_out, kept

    def groups(self, grid: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
        """The heads in parts that are trained one after the other: all at once, unless there are very many classes."""
        size = max(1, GROUP_VALUES // (max(self.table.features.width, self.options.batch_size) * self.classes))
        return [grid[first : first + size] for first in range(0, len(grid), size)]

    def search(
        self, groups: list[list[tuple[float, float]]], held_out: Tensor, kept: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Train all heads on every view of the images `kept`; per epoch (top-1 (G,), loss (G,)) on `held_out`."""
        parts = [self._search(group, held_out, kept) for group in groups]
        return [(torch.cat([p[0] for p in epoch]), torch.cat([p[1] for p in epoch])) for epoch in zip(*parts)]

    def _search(self, grid: list[tuple[float, float]], held_out: Tensor, kept: Tensor) -> list[tuple[Tensor, Tensor]]:
        heads, history = self._heads(grid), list[tuple[Tensor, Tensor]]()

        def after_epoch(epoch: int, losses: Tensor, rate: float) -> None:
            history.append(self._held_out_scores(heads, held_out))
            self.advance()

        self._train(heads, kept, _SEARCH, after_epoch)
        return history

    def _held_out_scores(self, heads: Heads, held_out: Tensor) -> tuple[Tensor, Tensor]:
        """(top-1 (G,), loss (G,)) on the centre views of `held_out`, a block of images at a time."""
        right, losses = [], []
        for images in held_out.split(max(1, BLOCK_VALUES // heads.bias.numel())):
            z, labels = self.table.rows(images)
            logits, true = heads.logits(z), labels[:, None]  # (n, C, G)
            losses.append(F.cross_entropy(logits, true.expand(-1, logits.shape[2]), reduction="none"))
            right.append(logits.argmax(1) == true)
        return torch.cat(right).float().mean(0), torch.cat(losses).mean(0)

    def refit(self, lr: float, weight_decay: float) -> tuple[Heads, list[Row]]:
        """One head on every view of every image, and a row per epoch."""
        heads, rows = self._heads([(lr, weight_decay)]), list[Row]()
        everything = LabelledFeatures(self.table.features, self.table.labels, [""] * self.classes)

        def logits(features: Tensor) -> Tensor:
            return heads.logits(self.table.standard.apply(features).to(self.table.dtype))[..., 0]

        def after_epoch(epoch: int, losses: Tensor, rate: float) -> None:
            score = top1(logits, everything)
            rows.append({"epoch": epoch + 1, "lr": rate * lr, "loss": losses.item(), "train_top1": score})
            self.advance()

        self._train(heads, torch.arange(len(self.table.labels), device=heads.lr.device), _REFIT, after_epoch)
        return heads, rows

    def _heads(self, grid: list[tuple[float, float]]) -> Heads:
        lr, weight_decay = torch.tensor(grid, dtype=torch.float32, device=self.table.labels.device).T.contiguous()
        return Heads(self.table.features.width, self.classes, lr, weight_decay)

    def _train(
        self, heads: Heads, images: Tensor, stage: int, after_epoch: Callable[[int, Tensor, float], None]
    ) -> None:
        """Train on all views of `images`, without a copy of them."""
        weight, bias = heads.weight.permute(2, 1, 0), heads.bias.T  # (G, C, F), (G, C)
        self.proof.trains({"weight": weight.squeeze(0), "bias": bias.squeeze(0)})
        views, count = self.table.features.views, len(self.table.labels)
        rows = (torch.arange(views, device=images.device)[:, None] * count + images).flatten()
        o = self.options
        assert o.epochs is not None
        train_heads(heads, self.table, rows, Passes(o.epochs, o.batch_size, o.seed, stage), after_epoch)
