"""What of a step's ways of computing decides its bits, in a phrase that is recorded with a run."""

from __future__ import annotations

import torch
from torch import nn

from moco.model.moco import MoCo
from moco.model.small_maps import multiplies_small_maps
from moco.runtime import Runtime
from moco.train.muon import Muon


def arithmetic(
    model: MoCo, runtime: Runtime, accumulate: int = 1, optimizer: torch.optim.Optimizer | None = None
) -> str:
    """A phrase that is the same where the same step gives the same bits, as far as threads and processes go.

    A step in pieces (`accumulate`) sums its gradients in another order; parts on the CPU are pieces anyhow. On the CPU
    it also tells the ways in which small maps and Muon were computed by former versions from those of this one.
    """
    by_halves = isinstance(optimizer, Muon) and runtime.device.type == "cpu"
    return _by_batch(model, runtime, accumulate) + (" (Muon by halves)" if by_halves else "")


def _by_batch(model: MoCo, runtime: Runtime, accumulate: int) -> str:
    world = runtime.ranks.world
    pieces = f" in {accumulate} pieces" if accumulate > 1 else ""
    if runtime.device.type != "cpu":
        return f"on one stream{pieces}" if world == 1 else f"in {world} processes{pieces}"
    if model.bn_splits == 1:
        whole = f"{at_once(model, runtime)}{pieces}"
        return whole if world == 1 else f"{whole} in {world} processes"
    exact = world == 1 or model.bn_splits == world == 2  # one sum of two: whoever comes first
    parts = f"in {model.bn_splits} parts on any number of threads"
    return f"{parts}{'' if exact else f' in {world} processes'}{_small_maps(model)}"


def at_once(network: nn.Module, runtime: Runtime) -> str:
    """`arithmetic` of batches that stay whole in one process."""
    return f"the whole batch at once on {runtime.threads} threads{_small_maps(network)}"


def _small_maps(network: nn.Module) -> str:
    return " (small maps by products, forward too)" if multiplies_small_maps(network) else ""
