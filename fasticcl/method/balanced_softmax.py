"""Balanced softmax (Ren et al., 2020), which is logit adjustment (Menon et al., 2021) with τ = 1.

It is no part of the paper: a stronger baseline than cross-entropy where no rebalancing follows.
"""

import torch
from torch.nn import functional as F


def costs(logits: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return -log p^k of logits [B, K] that were raised by log n_k, [B, K]."""
    return -F.log_softmax(logits + counts.log(), dim=1)
