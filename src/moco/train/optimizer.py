"""SGD as the paper has it: one group, weight decay on everything."""

from __future__ import annotations

import torch
from torch import nn

from moco.config import OptimizerConfig


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.SGD:
    """SGD over the parameters of `module` that take gradients, fused into one pass over memory."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.SGD(
        parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=True
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
