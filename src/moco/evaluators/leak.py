"""Does batch-norm give the positive away? Contrast by the batch's statistics against contrast by the running ones.

In training, query and key are normalised by the statistics of the batch that both are in, and no key of the queue is.
A network can find the positive by that alone (MoCo v1 section 3.3, "Shuffling BN"). With running statistics the sign is
gone: what is found then is found in the pictures. The difference between the two accuracies is the leak.
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
from moco.evaluators.verdict import BATCH, RUNNING
from moco.model.batchnorm import SplitBatchNorm1d, SplitBatchNorm2d
from moco.model.moco import Encoder, MoCo
from moco.randomness import Purpose, permutation
from moco.runtime import Runtime
from moco.views.make import random_view
from moco.views.pipelines import Pipeline
from moco.views.source import Source

IMAGES = 256  # at least so many, in groups of the size that batch-norm sees in training


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

    def __call__(self) -> Iterable[tuple[str, float]]:
        """Share of queries whose key is more similar than the keys of all other groups, by either statistics.

        Nothing where the network has no batch-norm or one over all devices, or the data too few images.
        """
        shuffled = self.model.bn_splits > 1  # keys between the parts, as in training: two groups are then left out
        fewest = 4 if shuffled else 2
        groups = min(max(fewest, -(-IMAGES // self.group)), len(self.source) // self.group)
        norms = _norms(self.model)
        if groups < fewest or not norms or any(isinstance(norm, nn.SyncBatchNorm) for norm in norms):
            return
        count = groups * self.group
        images = permutation(len(self.source), self.seed, Purpose.LEAK)[:count].reshape(groups, self.group)
        order = np.arange(count)
        if shuffled:
            order = permutation(count, self.seed, Purpose.LEAK, 1)
        own = torch.arange(count, device=self.runtime.device) // self.group  # each query's group
        places = torch.from_numpy(order).to(self.runtime.device)
        of_key = torch.empty_like(own).index_copy_(0, places, own)  # the group that each image's key is made in
        keys_of = images.reshape(-1)[order].reshape(groups, self.group)
        for name, mode in ((BATCH, by_batch_statistics), (RUNNING, evaluating)):
            with mode(self.model):
                q = self._embeddings(self.model.encoder_q, images, 0)
                k = self._embeddings(self.model.encoder_k, keys_of, 1)
            k = torch.empty_like(k).index_copy_(0, places, k)  # back in the queries' order
            yield name, found_elsewhere(q, k, own, of_key)

    def _embeddings(self, encoder: Encoder, images: NDArray[np.int64], view: int) -> Tensor:
        """float32 (count, dim), unit rows, of view `view` of `images` (groups, n), a group at a time."""

        def some(numbers: NDArray[np.int64]) -> Tensor:
            with torch.no_grad(), self.runtime.autocast(keep_casts=False):
                pixels = random_view(self.source, numbers, self.pipeline, self.seed, 0, view, Purpose.LEAK)
                pixels = pixels.contiguous(memory_format=torch.channels_last)
                return F.normalize(encoder.forward(pixels).float(), dim=1)  # as `MoCo.encode`, never compiled

        return torch.cat(self.runtime.workers.map(some, images))


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
