"""Balanced softmax (Ren et al., 2020), equal to logit adjustment (Menon et al., 2021) with τ = 1.

It is not part of the paper. Without a rebalancing stage it is a stronger baseline than cross-entropy.
"""

import torch
from torch.nn import functional as F


def costs(logits: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return the costs -log p^k [B, K] of logits [B, K] to which log n_k is added."""
    return -F.log_softmax(logits + counts.log(), dim=1)
