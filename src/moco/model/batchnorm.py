"""Batch-norm that can't leak on one device: its statistics are taken over parts of the batch.

With one statistic over the whole batch, query and key share it and the network finds the positive by it
(MoCo v1 section 3.3, "Shuffling BN"). The paper's many GPUs each had their own; here the parts of the batch
do, and the keys are shuffled between the parts. The MoCo authors' CIFAR notebook does the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
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
        moved = len(parts)  # fewer than `splits` of a batch that is too small for all
        self.running_mean.copy_(means[:moved].mean(0))
        self.running_var.copy_(variances[:moved].mean(0))
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


def join_batchnorm(module: nn.Module) -> nn.Module:
    """Let the batch-norm that `split_batchnorm` made take one statistic over the whole batch again, in place."""
    for child in module.modules():
        if isinstance(child, _Split):
            child.splits = 1
    return module


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """In training, one statistic over the batches of all processes; in evaluation the batch-norm that it stands for.

    torch's own of this name works on GPUs alone. This one asks `add` for the sum over the processes of count, sum and
    sum of squared differences, and the gradient flows back through those.
    """

    def __init__(self, like: nn.modules.batchnorm._BatchNorm, add: Callable[[Tensor], Tensor]) -> None:
        super().__init__(like.num_features, like.eps, like.momentum, like.affine, like.track_running_stats)
        self.weight, self.bias = like.weight, like.bias
        for name, buffer in like.named_buffers(recurse=False):
            setattr(self, name, buffer)
        self.drop: nn.Module | None = like.drop if isinstance(like, BatchNormAct2d) else None
        self.act: nn.Module | None = like.act if isinstance(like, BatchNormAct2d) else None
        self._add = add

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions, channels second."""

    def forward(self, input: Tensor) -> Tensor:
        made = self._shared(input) if self.training else super().forward(input)
        return made if self.act is None or self.drop is None else self.act(self.drop(made))

    def _shared(self, input: Tensor) -> Tensor:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        dims = [d for d in range(input.ndim) if d != 1]
        shape = [-1 if d == 1 else 1 for d in range(input.ndim)]
        wide = input.float()
        values = wide.new_full((1,), input.numel() / input.shape[1])
        count = self._add(values)
        mean = self._add(wide.sum(dims)) / count
        centred = wide - mean.view(shape)
        variance = self._add(centred.square().sum(dims)) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        made = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            made = made * self.weight.view(shape) + self.bias.view(shape)
        return made.to(input.dtype)


# What `SyncBatchNorm` can stand for; a class of its own may do more in its `forward`.
_SHARED = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, SplitBatchNorm1d, SplitBatchNorm2d,
    BatchNormAct2d,
)  # fmt: skip


def sync_batchnorm(module: nn.Module, add: Callable[[Tensor], Tensor]) -> nn.Module:
    """Replace every batch-norm of `module`, in place, by one over all processes; parameters and buffers stay.

    `add` gives the sum of a tensor over the processes, with a gradient. Raises `UserError` for batch-norm of a kind
    that isn't known, or has no running statistics that move by a momentum.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                if child.momentum is None or not child.track_running_stats:
                    raise UserError(f"a {type(child).__name__} without running statistics can't be shared by processes")
                if type(child) not in _SHARED:
                    raise UserError(f"a {type(child).__name__} can't be shared by processes: give --runtime.devices 1")
                setattr(parent, name, SyncBatchNorm(child, add))
    return module


def has_batchnorm(module: nn.Module) -> bool:
    """Whether statistics of a batch are in it anywhere."""
    return any(isinstance(child, nn.modules.batchnorm._BatchNorm) for child in module.modules())
