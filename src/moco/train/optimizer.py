"""The optimizer by name: SGD as the paper has it (one group, weight decay on everything), or another."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim.lars import Lars
from torch import nn

from moco.config import OptimizerConfig
from moco.threads import Threads
from moco.train.muon import Muon, Together, is_matrix


def build_optimizer(
    module: nn.Module, config: OptimizerConfig, workers: Threads | None = None, together: Together | None = None
) -> torch.optim.Optimizer:
    """The optimizer of `config` over the parameters of `module` that take gradients.

    SGD and AdamW are fused into one pass over memory. `workers` share what Muon computes, and so
    do the processes of `together` (the runtime).
    """
    groups = _groups(module, config)
    match config.name:
        case "sgd":
            return torch.optim.SGD(groups, momentum=config.momentum, fused=True)
        case "adamw":
            return torch.optim.AdamW(groups, betas=(config.momentum, 0.999), fused=True)
        case "lars":
            return Lars(groups, momentum=config.momentum)
        case "muon":
            return Muon(groups, workers, together, momentum=config.momentum)


def _groups(module: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """One group, or two: matrices, and what is none. A group's rate is the schedule's times its `lr_scale`."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    common = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.name != "muon" and config.vector_lr == 1 and config.decay_vectors:
        return [{"params": parameters, **common}]
    matrices = [p for p in parameters if is_matrix(p)]
    vectors = [p for p in parameters if not is_matrix(p)]
    apart = {
        "lr": config.lr * config.vector_lr,
        "lr_scale": config.vector_lr,
        "weight_decay": config.weight_decay if config.decay_vectors else 0.0,
    }
    muon = config.name == "muon"
    return [
        {"params": matrices, **common, **({"use_fallback": False} if muon else {})},
        {"params": vectors, **apart, **({"use_fallback": True} if muon else {})},
    ]


@torch.no_grad()
def lie_alike(optimizer: torch.optim.Optimizer) -> None:
    """Give what the optimizer keeps of each parameter the parameter's order in memory.

    The fused steps go through both as they lie: what was read from a file of somebody else's lies in rows, and
    channels-last weights would meet other weights' momentum without a word.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if name == "step" and parameter.device.type == "cuda":  # counted there, whoever has counted it so far
                state[name] = value.to(parameter.device)
                continue
            alike = isinstance(value, torch.Tensor) and value.shape == parameter.shape
            if alike and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter).copy_(value)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate: of each group times its `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
