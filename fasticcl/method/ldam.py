"""Label-distribution-aware margin loss (Cao et al., 2019)."""

import torch
from torch.nn import functional as F

from fasticcl.config import Method
from fasticcl.method.class_losses import ClassLoss
from fasticcl.method.log_odds import log_odds_against


class LDAM(ClassLoss):
    """Cross-entropy after the margin s·Δ_k has been subtracted from the logit of the label.

    Δ_k is proportional to n_k^(-1/4), and the largest Δ_k is M. s is the scale of the logits, which a cosine
    or causal classifier has already applied to them, or 1.
    """

    def __init__(self, counts: torch.Tensor, settings: Method) -> None:
        super().__init__(counts, settings)
        scale = settings.classifier_scale if settings.classifier in ("cosine", "causal") else 1.0
        self.margins = scale * settings.ldam_margin * (counts.min() / counts) ** 0.25
        """[K] s·Δ."""

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Return log(1 + e^(s·Δ_k) · (1 - p^k) / p^k), [B, K], where p is the softmax of the logits."""
        return F.softplus(log_odds_against(logits) + self.margins)
