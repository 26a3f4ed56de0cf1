"""Which pictures may be copies of a part of others: small grey thumbnails of many windows, compared by correlation.

An embedding hardly sees through a crop unless the network was trained for long, and a perceptual hash never does: here
each picture's windows are compared with every whole picture, as it is and mirrored. What comes out are proposals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

SIDE = 12  # pixels of what is compared
SCALES = ((1.0, 1), (0.9, 2), (0.8, 4), (0.7, 5), (0.6, 7))  # side of the windows, and how many positions each way
ROWS = 2**25  # correlations that are held at once


@dataclass(frozen=True)
class Proposals:
    """Pairs that may be copies: the whole of `part` may be a window of `whole`.

    Attributes:
        whole, part: int64 (P,), numbers of pictures.
        mirrored: bool (P,), whether `part` is mirrored.
        window: float32 (P, 4), in `whole`: left, top, width, height as shares of its sides.
    """

    whole: NDArray[np.int64]
    part: NDArray[np.int64]
    mirrored: NDArray[np.bool_]
    window: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.whole)

    @classmethod
    def of_pairs(cls, pairs: NDArray[np.int64]) -> Proposals:
        """Each of `pairs` int (P, 2) both ways round, as it is and mirrored, all of the frame."""
        whole, part = np.concatenate([pairs, pairs[:, ::-1]] * 2).T
        window = np.tile(np.array([0, 0, 1, 1], np.float32), (len(whole), 1))
        return cls(whole, part, np.arange(len(whole)) >= 2 * len(pairs), window)

    @classmethod
    def joined(cls, several: list[Proposals]) -> Proposals:
        """All of them, one after the other."""
        columns = [[getattr(p, name) for p in several] for name in ("whole", "part", "mirrored", "window")]
        return cls(*map(np.concatenate, columns))

    def distinct(self) -> Proposals:
        """Without those that say the same of the same pair: of several places in the whole, each stays."""
        rows = np.column_stack([self.whole, self.part, self.mirrored, *(100 * self.window).round().T]).astype(np.int64)
        return self.chosen(np.unique(rows, axis=0, return_index=True)[1])

    def chosen(self, which: NDArray[np.generic]) -> Proposals:
        """Those that `which`, numbers or a mask, chooses."""
        return Proposals(self.whole[which], self.part[which], self.mirrored[which], self.window[which])


def propose(thumbnails: NDArray[np.uint8], nearest: int, floor: float) -> Proposals:
    """For every picture the `nearest` others that have a window which looks like it: a correlation from `floor` on.

    `thumbnails` is uint8 RGB (N, S, S, 3), each picture squeezed into a square. The work grows with N squared.
    """
    count = len(thumbnails)
    boxes = list(windows())
    wholes = torch.cat([_described(_grey(thumbnails[n : n + 1024]), (0, 0, 1, 1)) for n in range(0, count, 1024)])
    flipped = wholes.view(-1, SIDE, SIDE).flip(2).reshape(count, -1)
    targets = torch.cat([wholes, flipped]).T.contiguous()  # (SIDE * SIDE, 2 N)
    best = torch.full((nearest, 2 * count), -1.0)
    found = torch.zeros((nearest, 2 * count), dtype=torch.int64)
    at_once = max(1, ROWS // (2 * count * len(boxes)))
    for first in range(0, count, at_once):
        grey = _grey(thumbnails[first : first + at_once])
        described = torch.stack([_described(grey, box) for box in boxes], 1)  # (n, boxes, SIDE * SIDE)
        scores = (described.flatten(0, 1) @ targets).view(len(grey), len(boxes), -1).amax(1)
        own = torch.arange(len(grey))
        scores[own, own + first] = scores[own, own + first + count] = -1.0
        numbers = (own + first)[:, None].expand_as(scores)
        columns = (scores.amax(0) > best[-1].clamp_min(floor)).nonzero()[:, 0]  # soon there are few
        kept, order = torch.cat([best[:, columns], scores[:, columns]]).topk(nearest, dim=0)
        best[:, columns] = kept
        found[:, columns] = torch.cat([found[:, columns], numbers[:, : len(columns)]]).gather(0, order)
    where = (best >= floor).nonzero()
    whole = found[where[:, 0], where[:, 1]].numpy()
    part, mirrored = (where[:, 1] % count).numpy(), (where[:, 1] >= count).numpy()
    return Proposals(whole, part, mirrored, _windows_of(thumbnails, whole, targets[:, where[:, 1]].T, boxes))


def windows() -> Iterator[tuple[float, float, float, float]]:
    """(left, top, width, height) as shares of the sides."""
    for side, positions in SCALES:
        for top in np.linspace(0, 1 - side, positions).tolist():
            for left in np.linspace(0, 1 - side, positions).tolist():
                yield left, top, side, side


def _windows_of(
    thumbnails: NDArray[np.uint8],
    whole: NDArray[np.int64],
    targets: Tensor,
    boxes: list[tuple[float, float, float, float]],
) -> NDArray[np.float32]:
    """Of each pair the window that looked most like the other."""
    chosen = []
    for first in range(0, len(whole), 1024):
        grey = _grey(thumbnails[whole[first : first + 1024]])
        scores = [(_described(grey, box) * targets[first : first + 1024]).sum(1) for box in boxes]
        chosen.append(torch.stack(scores, 1).argmax(1))
    numbers = torch.cat(chosen).numpy() if chosen else np.empty(0, np.int64)
    return np.array(boxes, np.float32)[numbers].reshape(-1, 4)


def _grey(thumbnails: NDArray[np.uint8]) -> Tensor:
    """float32 (n, S, S)."""
    return torch.from_numpy(np.asarray(thumbnails)).float().mean(3)


def _described(grey: Tensor, box: tuple[float, float, float, float]) -> Tensor:
    """A window of each picture as a row of zero mean and length 1, (n, SIDE * SIDE)."""
    size = grey.shape[1]
    left, top, right, bottom = (round(size * v) for v in (box[0], box[1], box[0] + box[2], box[1] + box[3]))
    small = F.adaptive_avg_pool2d(grey[:, None, top:bottom, left:right], SIDE).flatten(1)
    return F.normalize(small - small.mean(1, keepdim=True), dim=1, eps=1e-3)
