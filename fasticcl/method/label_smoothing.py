"""Label-aware smoothing (MiSLAS, Zhong et al., 2021): cross-entropy with smoothing by class size."""

import math

import torch
from torch.nn import functional as F


def smoothing_factors(counts: torch.Tensor, head: float, tail: float) -> torch.Tensor:
    """Return ε_k = ε_t + (ε_h - ε_t)·sin(π/2·(n_k - n_min)/(n_max - n_min)), [K].

    Args:
        counts: [K] training images per class. If all are equal, every class has the factor ε_h.
        head: ε_h, the factor of the largest class.
        tail: ε_t, the factor of the smallest class.
    """
    counts = counts.float()
    smallest, largest = counts.min(), counts.max()
    if smallest == largest:
        return torch.full_like(counts, head)
    share = (counts - smallest) / (largest - smallest)
    return tail + (head - tail) * torch.sin(math.pi / 2 * share)


def smoothed_cross_entropy(logits: torch.Tensor, y: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Return the mean of (1 - ε_y)·(-log p^y) + ε_y·(mean over k of -log p^k), computed in float32.

    Args:
        logits: [B, K].
        y: [B] classes.
        factors: [K] ε_k.
    """
    costs = -F.log_softmax(logits.float(), dim=1)
    cost, factor = costs.gather(1, y[:, None]).squeeze(1), factors[y]
    return ((1 - factor) * cost + factor * costs.mean(dim=1)).mean()
