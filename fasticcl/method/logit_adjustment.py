"""Logit adjustment (Menon et al., 2021) and balanced softmax (Ren et al., 2020).

They are not part of the paper. Without a rebalancing stage they are stronger baselines than cross-entropy.
"""

import torch
from torch.nn import functional as F

from fasticcl.config import Method
from fasticcl.method.class_losses import ClassLoss


def log_prior(counts: torch.Tensor) -> torch.Tensor:
    """Return log(n_k / N) in float64 for training images per class [K]."""
    counts = counts.double()
    return (counts / counts.sum()).log()


class LogitAdjustment(ClassLoss):
    """Cross-entropy of logits to which τ times the log prior is added."""

    def __init__(self, counts: torch.Tensor, settings: Method) -> None:
        super().__init__(counts, settings)
        self.adjustment = (settings.logit_adjustment_tau * log_prior(counts)).float()

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Return -log p^k of the adjusted logits, [B, K]."""
        return -F.log_softmax(logits + self.adjustment, dim=1)


class BalancedSoftmax(LogitAdjustment):
    """Logit adjustment with τ = 1."""

    def __init__(self, counts: torch.Tensor, settings: Method) -> None:
        super().__init__(counts, settings.model_copy(update={"logit_adjustment_tau": 1.0}))
