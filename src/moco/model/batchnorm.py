"""Batch-norm that can't leak on one device: its statistics are taken over parts of the batch.

With one statistic over the whole batch, query and key share it and the network finds the positive by it
(MoCo v1 section 3.3, "Shuffling BN"). The paper's many GPUs each had their own; here the parts of the batch
do, and the keys are shuffled between the parts. The MoCo authors' CIFAR notebook does the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.errors import UserError


class _Split(nn.modules.batchnorm._BatchNorm):
    """In training, `splits` consecutive parts of the batch are normalised each by its own statistics.

    The running statistics move by the mean over the parts, as one device of many would see. Evaluation and
    the state dict are those of the batch-norm that it stands for, and with one split it is that.
    """

    def __init__(self, num_features: int, splits: int, **kwargs: float) -> None:
        super().__init__(num_features, **kwargs)  # type: ignore[arg-type]
        self.splits = splits

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.splits == 1:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked.add_(1)
        means = self.running_mean.repeat(self.splits, 1)  # (splits, C)
        variances = self.running_var.repeat(self.splits, 1)
        parts = [
            F.batch_norm(part, mean, variance, self.weight, self.bias, True, self.momentum, self.eps)
            for part, mean, variance in zip(input.chunk(self.splits), means, variances)
        ]
        self.running_mean.copy_(means.mean(0))
        self.running_var.copy_(variances.mean(0))
        return torch.cat(parts)


class SplitBatchNorm1d(_Split, nn.BatchNorm1d):
    """`BatchNorm1d` over parts of the batch."""


class SplitBatchNorm2d(_Split, nn.BatchNorm2d):
    """`BatchNorm2d` over parts of the batch."""


_SPLIT: dict[type, type[SplitBatchNorm1d] | type[SplitBatchNorm2d]] = {
    nn.BatchNorm1d: SplitBatchNorm1d,
    nn.BatchNorm2d: SplitBatchNorm2d,
}


def split_batchnorm(module: nn.Module, splits: int) -> nn.Module:
    """Replace every `BatchNorm1d` and `BatchNorm2d` of `module`, in place, by one over `splits` parts of the batch.

    A network without batch-norm stays as it is. Raises `UserError` for batch-norm of a kind that this can't replace.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, nn.modules.batchnorm._BatchNorm):
                continue
            if type(child) not in _SPLIT or child.momentum is None or not child.track_running_stats:
                raise UserError(f"model.bn_splits can't split a {type(child).__name__}, give --model.bn_splits 1")
            split = _SPLIT[type(child)](child.num_features, splits, eps=child.eps, momentum=child.momentum)
            split.load_state_dict(child.state_dict())
            setattr(parent, name, split)
    return module
