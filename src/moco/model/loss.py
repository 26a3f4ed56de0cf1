"""InfoNCE (MoCo v1 equation 1): cross-entropy with the positive in column 0."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(logits: Tensor) -> Tensor:
    """Mean loss, float32 scalar, of logits (N, 1+K) whose column 0 is the positive."""
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))
