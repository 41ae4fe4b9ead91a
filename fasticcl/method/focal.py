"""Focal loss (Lin et al., 2017) of a softmax, and of K sigmoids (Cui et al., 2019)."""

import math

import torch
from torch.nn import functional as F

from fasticcl.config import Method
from fasticcl.method.class_losses import ClassLoss
from fasticcl.method.log_odds import log_odds_against


class Focal(ClassLoss):
    """Focal loss of a softmax."""

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Return (1 - p^k)^γ · (-log p^k), [B, K]."""
        return _focal(log_odds_against(logits), self.settings.focal_gamma)


class SigmoidFocal(ClassLoss):
    """Focal loss of K binary classifiers, summed over the classes.

    At first, each class has the probability 1 / K. Otherwise the K - 1 negative classes of each image would
    dominate the first steps.
    """

    def __init__(self, counts: torch.Tensor, settings: Method) -> None:
        super().__init__(counts, settings)
        self.initial_bias = -math.log(max(len(counts) - 1, 1))

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the sum over all classes, where class k is positive and the others are negative, [B, K]."""
        positive = _focal(-logits, self.settings.focal_gamma)
        negative = _focal(logits, self.settings.focal_gamma)
        return negative.sum(dim=1, keepdim=True) + positive - negative


def _focal(log_odds: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return (1 - p)^γ · (-log p) for the log odds log((1 - p) / p)."""
    return torch.exp(-gamma * F.softplus(-log_odds)) * F.softplus(log_odds)
