"""What a backbone's features are worth, told without labels: proxies, measured against kNN in docs/label-free.md."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from moco.evaluators.frozen import Frozen, View
from moco.randomness import Purpose, permutation
from moco.views.make import random_view
from moco.views.pipelines import Pipeline
from moco.views.source import Source

IMAGES = 512  # looked at, always the same ones in a run
VIEWS = 4  # of each
RIDGE = 1e-4  # on the within-image covariance, as in LiDAR's paper
TINY = 1e-7  # RankMe's epsilon
BEST_BY = "view_top1"  # the proxy that chooses the best checkpoint where there are no labels
SAID = (
    "no labels: the best checkpoint is the one whose views agree most (view_top1). That is a proxy: its rank "
    "correlation with kNN was 0.71 over 59 measurements of 18 small runs (docs/label-free.md)"
)


@dataclass(frozen=True)
class LabelFreeMonitor:
    """The proxies on the backbone as it is when asked, from `VIEWS` augmented views of some training images.

    Attributes:
        frozen: the backbone.
        source: the training images.
        pipeline: the views that training makes.
        seed: of the choice of images and of their views.
    """

    frozen: Frozen
    source: Source
    pipeline: Pipeline
    seed: int

    @property
    def looks(self) -> int:
        """Forward passes that asking it costs."""
        return VIEWS * min(IMAGES, len(self.source))

    def __call__(self) -> Iterable[tuple[str, float]]:
        """The proxies' columns; nothing for fewer than two images."""
        images = permutation(len(self.source), self.seed, Purpose.LABEL_FREE)[:IMAGES]
        if len(images) < 2:
            return
        features = self.frozen.features(self.source, [self._view(number) for number in range(VIEWS)], images)
        values = features.values.float()  # (V, N, F)
        yield "feature_rank", rank_of_features(values.flatten(0, 1))
        yield "lidar", lidar(values)
        yield "view_top1", view_agreement(values)

    def _view(self, number: int) -> View:
        def view(source: Source, images: NDArray[np.int64]) -> Tensor:
            return random_view(source, images, self.pipeline, self.seed, 0, number, Purpose.LABEL_FREE)

        return view


@torch.no_grad()
def rank_of_features(features: Tensor) -> float:
    """RankMe (Garrido et al. 2022, arXiv:2210.02885, equation 1) of `features` (N, F): from 1 to min(N, F).

    exp(entropy) of the singular values, each a share of their sum.
    """
    return _entropic(torch.linalg.svdvals(features.double()))


@torch.no_grad()
def lidar(features: Tensor) -> float:
    """LiDAR (Thilak et al. 2023, arXiv:2312.04000) of `features` (V, N, F): V views of each of N images.

    The rank, as RankMe's, of what tells images apart in units of what tells the views of one apart: the eigenvalues
    of W^-1/2 B W^-1/2, B the covariance of the images' means, W that of the views around them.
    """
    values = features.double()
    means = values.mean(0)  # (N, F)
    within = (values - means).flatten(0, 1)
    between = means - means.mean(0)
    w = within.T @ within / len(within) + RIDGE * torch.eye(means.shape[1], dtype=torch.float64, device=values.device)
    root = torch.linalg.cholesky(w)
    scaled = torch.linalg.solve_triangular(root, between.T, upper=False)  # (F, N): the same spectrum as with W^-1/2
    return _entropic(torch.linalg.svdvals(scaled).square())


@torch.no_grad()
def view_agreement(features: Tensor) -> float:
    """Share of images whose second view is more like their first than like any other image's, by cosine.

    `features` (V, N, F). A tie is no find.
    """
    first, second = F.normalize(features[0].float(), dim=1), F.normalize(features[1].float(), dim=1)
    similarity = second @ first.T
    own = similarity.diagonal().clone()
    similarity.fill_diagonal_(-torch.inf)
    return (own > similarity.amax(1)).float().mean().item()


def _entropic(spectrum: Tensor) -> float:
    """exp(entropy) of a spectrum (n,) as shares of its sum; 1 where all of it is zero."""
    total = spectrum.sum().item()
    if not total > 0:
        return 1.0
    share = spectrum / total + TINY
    return math.exp(-(share * share.log()).sum().item())
