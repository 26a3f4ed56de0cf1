"""Does batch-norm give the positive away? Contrast by the batch's statistics against contrast without them.

In training, query and key are normalised by the statistics of the batch that both are in, and no key of the queue is.
A network can find the positive by that alone (MoCo v1 section 3.3, "Shuffling BN"). With running statistics the sign is
gone, and with the keys shuffled between groups, as in the paper's cure: what is found then is found in the pictures.
What is found only with query and key in the same group is the leak.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from moco.evaluators.frozen import evaluating
from moco.evaluators.verdict import BATCH, RUNNING, SHUFFLED
from moco.model.batchnorm import SplitBatchNorm1d, SplitBatchNorm2d
from moco.model.moco import Encoder, MoCo
from moco.randomness import Purpose, permutation
from moco.runtime import Runtime
from moco.views.make import random_view
from moco.views.pipelines import Pipeline
from moco.views.source import Source

FEWEST_GROUPS = 3
IMAGES = 256  # at least so many, in groups of the size that batch-norm sees in training
PASSES = 5  # of each image: a query and two keys by the batch's statistics, one of each by the running ones


@dataclass(frozen=True)
class LeakMonitor:
    """The diagnostic on the model as it is when asked; nothing of it moves and no generator is drawn from.

    Attributes:
        model: both encoders.
        source: the training images.
        pipeline: their views.
        group: images that share batch-norm statistics in training.
        runtime: where it computes.
        seed: of the choice of images, always the same ones in a run, and of their views.
    """

    model: MoCo
    source: Source
    pipeline: Pipeline
    group: int
    runtime: Runtime
    seed: int

    @property
    def looks(self) -> int:
        """Forward passes that asking it costs."""
        return PASSES * self.group * self._groups

    @property
    def _groups(self) -> int:
        """How many it looks at; none where the network has no batch-norm or one over all devices, or too few images."""
        groups = min(max(FEWEST_GROUPS, -(-IMAGES // self.group)), len(self.source) // self.group)
        norms = _norms(self.model)
        spoiled = groups < FEWEST_GROUPS or not norms or any(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
        return 0 if spoiled else groups

    def __call__(self) -> Iterable[tuple[str, float]]:
        """Share of queries whose key is more similar than the keys of all other groups, by each of three statistics.

        Nothing without groups to look at.
        """
        if (groups := self._groups) == 0:
            return
        count = groups * self.group
        images = permutation(len(self.source), self.seed, Purpose.LEAK)[:count]
        together, shuffled = np.arange(count), permutation(count, self.seed, Purpose.LEAK, 1)
        with by_batch_statistics(self.model):
            q = self._embeddings(self.model.encoder_q, images, together, 0)
            yield BATCH, self._found(q, images, together)
            yield SHUFFLED, self._found(q, images, shuffled)
        with evaluating(self.model):
            q = self._embeddings(self.model.encoder_q, images, together, 0)
            yield RUNNING, self._found(q, images, together)

    def _found(self, q: Tensor, images: NDArray[np.int64], order: NDArray[np.int64]) -> float:
        """What the queries `q` (N, dim) find when the keys of `images` (N,) are made in groups of this `order`."""
        own = torch.arange(len(images), device=q.device) // self.group  # each query's group
        of_key = torch.empty_like(own).index_copy_(0, torch.from_numpy(order).to(q.device), own)  # each key's
        return found_elsewhere(q, self._embeddings(self.model.encoder_k, images, order, 1), own, of_key)

    def _embeddings(self, encoder: Encoder, images: NDArray[np.int64], order: NDArray[np.int64], view: int) -> Tensor:
        """float32 (N, dim), unit rows, of view `view` of `images` (N,), made a group at a time in `order`."""

        def some(numbers: NDArray[np.int64]) -> Tensor:
            with torch.no_grad(), self.runtime.autocast(keep_casts=False):
                pixels = random_view(self.source, numbers, self.pipeline, self.seed, 0, view, Purpose.LEAK)
                pixels = pixels.contiguous(memory_format=torch.channels_last)
                return F.normalize(encoder.forward(pixels).float(), dim=1)  # as `MoCo.encode`, never compiled

        made = torch.cat(self.runtime.workers.map(some, images[order].reshape(-1, self.group)))
        return torch.empty_like(made).index_copy_(0, torch.from_numpy(order).to(made.device), made)


def found_elsewhere(q: Tensor, k: Tensor, own: Tensor, of_key: Tensor) -> float:
    """Share of `q` (N, dim) whose key in `k` (N, dim) beats every key that shares no statistics with either of the two.

    Query i is of group `own[i]`, its key was made in group `of_key[i]`, int64 (N,): keys made in one of the two are no
    negatives of it, as in the queue, which has keys of earlier batches only. A tie is no find.
    """
    similarity = q @ k.T
    shared = (own[:, None] == of_key[None]) | (of_key[:, None] == of_key[None])
    best_other = similarity.masked_fill(shared, -torch.inf).amax(1)
    return (similarity.diagonal() > best_other).float().mean().item()


def _norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


@contextlib.contextmanager
def by_batch_statistics(model: nn.Module) -> Iterator[nn.Module]:
    """`model` in evaluation mode, but its batch-norm by the statistics of what it is given; no buffer moves."""
    with evaluating(model), contextlib.ExitStack() as after:
        for norm in _norms(model):
            after.callback(setattr, norm, "track_running_stats", norm.track_running_stats)
            after.callback(setattr, norm, "training", False)
            norm.track_running_stats, norm.training = False, True
            if isinstance(norm, SplitBatchNorm1d | SplitBatchNorm2d):
                after.callback(setattr, norm, "splits", norm.splits)
                norm.splits = 1  # what it is given is one part
        yield model
