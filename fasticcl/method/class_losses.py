"""What the classifier learns from. A new loss is a file beside this one and a line here.

The paper's is cross-entropy (equation 6). Whatever takes its place is mixed as equation 7 mixes it:
λ·l(x_f, y_h) + (1 - λ)·l(x_f, y_t).
"""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from fasticcl.errors import UserError, nearest
from fasticcl.method.losses import Lambda, interpolated
from fasticcl.registry import Registry

ClassLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Called with logits [B, K] float32 and training images per class [K]; returns what each sample would cost
with each class as its label, [B, K]."""


def cross_entropy(logits: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    """Return -log p^k (equation 6)."""
    return -F.log_softmax(logits, dim=1)


CLASS_LOSSES: Registry[ClassLoss] = Registry(
    "fasticcl.method",
    {
        "cross_entropy": "class_losses.cross_entropy",
        "balanced_softmax": "balanced_softmax.costs",
    },
)


class ClassificationLoss:
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
        self.costs, self.counts = CLASS_LOSSES[name], counts.float()

    def __call__(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the mean over a batch: L_ce of equation 6, or what takes its place."""
        return F.nll_loss(-self.costs(logits.float(), self.counts), y)

    def interpolative(
        self, logits: torch.Tensor, y_h: torch.Tensor, y_t: torch.Tensor, lam: Lambda
    ) -> torch.Tensor:
        """Return the mean over mixed images: L_ce^it of equation 7, or what takes its place.

        The arguments are those of `losses.interpolative_cross_entropy`.
        """
        return interpolated(self.costs(logits.float(), self.counts), y_h, y_t, lam)
