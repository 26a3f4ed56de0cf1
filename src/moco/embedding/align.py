"""Whether one picture is a copy of another, or of a part of it: aligned first, then compared pixel by pixel.

The window is moved and stretched until the two agree best (Lucas and Kanade 1981, from coarse to fine), on grey levels
without mean and contrast. Then the copy's grey is fitted by the other's three colours, so that shifted colours don't
count, once for the picture and once for its details alone: two photographs of like things agree in the first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from moco.embedding.windows import Proposals
from moco.threads import Threads

LEVELS = ((16, 0.7), (32, 0.85), (64, 0.9))  # pixels a side, and the correlation below which nothing finer is tried
BEGIN = 0.4  # correlation before the first step below which none is taken
STEPS = 6  # at each level
SMALLEST = 0.4  # side of a window
COMPARED = 32  # pixels a side at which the two are compared
BLUR = 5  # pixels: details are what a box of this side takes away
BLOCKS = 4  # parts a side of which each has a say
PLAIN = 1.0  # grey levels: a part with less detail has none
BATCH = 512


@dataclass(frozen=True)
class Alignment:
    """How well pairs agree once they are aligned.

    Attributes:
        window: float32 (P, 4): left, top, width, height of the part in the whole, shares of its sides.
        picture: float32 (P,), correlation of the pictures, 0 to 1.
        detail: float32 (P,), correlation of their details, 0 to 1.
        even: float32 (P,), the details' correlation in each of `BLOCKS` x `BLOCKS` parts of the picture that has any,
            and the mean of those: two pictures with the same frame agree in its details alone.
    """

    window: NDArray[np.float32]
    picture: NDArray[np.float32]
    detail: NDArray[np.float32]
    even: NDArray[np.float32]


def align(thumbnails: NDArray[np.uint8], proposals: Proposals, workers: Threads | None = None) -> Alignment:
    """Align each of `proposals`; `thumbnails` is uint8 RGB (N, S, S, 3). `workers` take some of them each."""
    batches = np.split(np.arange(len(proposals)), range(BATCH, len(proposals), BATCH)) if len(proposals) else []
    made = (workers or Threads(1)).map(lambda numbers: _batch(thumbnails, proposals.chosen(numbers)), batches)
    if not made:
        return Alignment(np.empty((0, 4), np.float32), *[np.empty(0, np.float32)] * 3)
    return Alignment(
        *(np.concatenate([getattr(m, name) for m in made]) for name in ("window", "picture", "detail", "even"))
    )


def _batch(thumbnails: NDArray[np.uint8], pairs: Proposals) -> Alignment:
    whole, part = (_pictures(thumbnails[which]) for which in (pairs.whole, pairs.part))
    mirrored = torch.from_numpy(pairs.mirrored)
    part[mirrored] = part[mirrored].flip(3)
    left, top, width, height = torch.from_numpy(pairs.window).unbind(1)
    place = torch.stack([width, height, 2 * left + width - 1, 2 * top + height - 1], 1)  # x -> width x + shift
    grey, copy = whole.mean(1, keepdim=True), part.mean(1, keepdim=True)
    picture, detail, even = torch.zeros(3, len(pairs))
    coarsest = LEVELS[0][0]
    begin = _correlation(_sized(grey, coarsest), _standard(_sized(copy, coarsest)), place)
    alive = (begin >= BEGIN).nonzero()[:, 0]
    for level, least in LEVELS:
        if not len(alive):
            break
        place[alive], agree = _settled(_sized(grey[alive], level), _sized(copy[alive], level), place[alive])
        alive = alive[agree >= least]
    if len(alive):
        seen = F.adaptive_avg_pool2d(_seen(whole[alive], place[alive]), COMPARED)
        small = F.adaptive_avg_pool2d(copy[alive], COMPARED)
        picture[alive] = _correlated(_fit(seen, small), small)
        fit, details = _fit(_details(seen), _details(small)), _details(small)
        detail[alive] = _correlated(fit, details)
        even[alive] = _evenly(fit, details)
    width, height, x, y = place.unbind(1)
    window = torch.stack([(x - width + 1) / 2, (y - height + 1) / 2, width, height], 1)
    return Alignment(window.numpy(), picture.numpy(), detail.numpy(), even.numpy())


def _pictures(thumbnails: NDArray[np.uint8]) -> Tensor:
    """float32 (n, 3, S, S)."""
    return torch.from_numpy(np.asarray(thumbnails)).permute(0, 3, 1, 2).float()


def _sized(images: Tensor, size: int) -> Tensor:
    return images if images.shape[-1] == size else F.adaptive_avg_pool2d(images, size)


def _axis(size: int) -> Tensor:
    return (2 * torch.arange(size) + 1) / size - 1


def _seen(images: Tensor, place: Tensor) -> Tensor:
    """The windows at `place` (n, 4) of `images` (n, C, S, S), at the same size."""
    axis = _axis(images.shape[-1])
    x = place[:, :1] * axis + place[:, 2:3]  # (n, S)
    y = place[:, 1:2] * axis + place[:, 3:4]
    n, size = x.shape
    grid = torch.stack([x[:, None, :].expand(n, size, size), y[:, :, None].expand(n, size, size)], 3)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _settled(whole: Tensor, part: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Better places, and the correlations there: Gauss-Newton steps, of which one that makes it worse is not taken."""
    target = _standard(part)
    axis = _axis(whole.shape[-1])
    best, score = place, _correlation(whole, target, place)
    for _ in range(STEPS):
        seen = _seen(whole, best)[:, 0]
        rise_y, rise_x = torch.gradient(seen, dim=(1, 2))
        slope = whole.shape[-1] / 2
        rise_x, rise_y = rise_x * slope / best[:, 0, None, None], rise_y * slope / best[:, 1, None, None]
        columns = torch.stack([rise_x * axis, rise_y * axis[:, None], rise_x, rise_y], 1).flatten(2)  # (n, 4, S * S)
        spread = seen.flatten(1).std(1, correction=0).clamp_min(1e-3)[:, None]
        flat = (seen.flatten(1) - seen.flatten(1).mean(1, keepdim=True)) / spread
        columns = columns / spread[:, None]
        columns = columns - columns.mean(2, keepdim=True)
        columns = columns - (columns * flat[:, None]).mean(2, keepdim=True) * flat[:, None]  # contrast is not free
        normal = columns @ columns.transpose(1, 2)
        normal = normal + torch.diag_embed(1e-3 * normal.diagonal(dim1=1, dim2=2) + 1e-6)
        step = torch.linalg.solve(normal, (columns @ (target - flat)[:, :, None]))[:, :, 0]
        tried = _inside(best + step.clamp(-0.15, 0.15))
        now = _correlation(whole, target, tried)
        better = now > score
        best = torch.where(better[:, None], tried, best)
        score = torch.where(better, now, score)
    return best, score


def _inside(place: Tensor) -> Tensor:
    """Windows that lie in the picture, a pixel or so aside."""
    sides = place[:, :2].clamp(SMALLEST, 1.05)
    room = (1.05 - sides).clamp_min(0)
    return torch.cat([sides, torch.maximum(torch.minimum(place[:, 2:], room), -room)], 1)


def _standard(images: Tensor) -> Tensor:
    """(n, 1, S, S) to rows of zero mean and variance 1, (n, S * S)."""
    flat = images.flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    return flat / flat.std(1, correction=0, keepdim=True).clamp_min(1e-3)


def _correlation(whole: Tensor, target: Tensor, place: Tensor) -> Tensor:
    return (_standard(_seen(whole, place)) * target).mean(1)


def _details(images: Tensor) -> Tensor:
    return images - F.avg_pool2d(images, BLUR, 1, BLUR // 2, count_include_pad=False)


def _fit(colours: Tensor, grey: Tensor) -> Tensor:
    """The mixture of three colours (n, 3, S, S) that is nearest to `grey` , (n, 1, S, S), without mean."""
    x = colours.flatten(2)
    x = x - x.mean(2, keepdim=True)
    y = grey.flatten(2)
    y = y - y.mean(2, keepdim=True)
    normal = x @ x.transpose(1, 2) / x.shape[2]
    normal = normal + torch.eye(3) * (1e-3 * normal.diagonal(dim1=1, dim2=2).mean(1) + 1e-2)[:, None, None]
    weights = torch.linalg.solve(normal, x @ y.transpose(1, 2) / x.shape[2])
    return (weights * x).sum(1, keepdim=True).view_as(grey)


def _correlated(fit: Tensor, grey: Tensor) -> Tensor:
    """(n,), 0 to 1; of plain pictures 0."""
    x, y = fit.flatten(1), grey.flatten(1)
    y = y - y.mean(1, keepdim=True)
    spread = x.square().mean(1) * (y.square().mean(1) + 0.25)
    return ((x * y).mean(1) / spread.sqrt().clamp_min(1e-6)).clamp(0, 1)


def _evenly(fit: Tensor, details: Tensor) -> Tensor:
    """(n,), as `Alignment.even` says."""
    side = fit.shape[-1] // BLOCKS
    x, y = (t[:, 0].unfold(1, side, side).unfold(2, side, side).flatten(3) for t in (fit, details))
    energies = [t.square().mean(3) for t in (x, y)]
    each = ((x * y).mean(3) / (energies[0] * energies[1]).sqrt().clamp_min(1e-6)).clamp(0, 1)
    says = (torch.maximum(*energies) >= PLAIN**2).float()
    return (each * says).sum((1, 2)) / says.sum((1, 2)).clamp_min(1)
