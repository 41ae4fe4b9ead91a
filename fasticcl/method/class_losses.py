"""What the classifier learns from. A new loss is a file beside this one and a line here.

The paper's is cross-entropy (equation 6). Whatever takes its place is mixed as equation 7 mixes it:
λ·l(x_f, y_h) + (1 - λ)·l(x_f, y_t).
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch.nn import functional as F

from fasticcl.errors import UserError, nearest

ClassLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Called with logits [B, K] float32, classes y [B] and training images per class [K]; returns losses [B]."""


def cross_entropy(logits: torch.Tensor, y: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    """Return -log p(y) for each sample (equation 6)."""
    return F.cross_entropy(logits, y, reduction="none")


def balanced_softmax(logits: torch.Tensor, y: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return cross-entropy of logits that were raised by log n_k (Ren et al., 2020; logit adjustment, τ = 1).

    It is no part of the paper: a stronger baseline than cross-entropy where no rebalancing follows.
    """
    return F.cross_entropy(logits + counts.log(), y, reduction="none")


CLASS_LOSSES: Mapping[str, ClassLoss] = MappingProxyType(
    {
        "cross_entropy": cross_entropy,
        "balanced_softmax": balanced_softmax,
    }
)


class Classification:
    """The loss of a name, over batches.

    Args:
        name: one of ``CLASS_LOSSES``.
        counts: [K] training images per class.

    Raises:
        UserError: no such loss.
    """

    def __init__(self, name: str, counts: torch.Tensor) -> None:
        if name not in CLASS_LOSSES:
            raise UserError(f"There is no loss {name!r}. {nearest(name, CLASS_LOSSES)}")
        self.each, self.counts = CLASS_LOSSES[name], counts.float()

    def __call__(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the mean over a batch: L_ce of equation 6, or what takes its place."""
        return self.each(logits.float(), y, self.counts).mean()

    def interpolative(
        self, logits: torch.Tensor, y_h: torch.Tensor, y_t: torch.Tensor, lam: torch.Tensor | float
    ) -> torch.Tensor:
        """Return the mean over mixed images: L_ce^it of equation 7, or what takes its place.

        Args:
            logits: [B, K].
            y_h: [B] classes of the class-agnostic images.
            y_t: [B] classes of the class-aware images.
            lam: λ, the share of the class-agnostic image.
        """
        towards_h = self.each(logits.float(), y_h, self.counts)
        towards_t = self.each(logits.float(), y_t, self.counts)
        return (lam * towards_h + (1 - lam) * towards_t).mean()
