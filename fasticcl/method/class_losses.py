"""Classification losses by name. To add one, write a module here and add a line to `CLASS_LOSSES`.

The paper uses cross-entropy (equation 6). Other losses l are mixed like equation 7:
λ·l(x_f, y_h) + (1 - λ)·l(x_f, y_t).
"""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from fasticcl.errors import UserError, nearest
from fasticcl.method.losses import Lambda, interpolated
from fasticcl.registry import Registry

CostFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Function of float32 logits [B, K] and training images per class [K]. It returns costs [B, K]: the loss of
each sample for each class as its label."""


def cross_entropy(logits: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    """Return the costs -log p^k (equation 6), [B, K]."""
    return -F.log_softmax(logits, dim=1)


CLASS_LOSSES: Registry[CostFunction] = Registry(
    "fasticcl.method",
    {
        "cross_entropy": "class_losses.cross_entropy",
        "balanced_softmax": "balanced_softmax.costs",
    },
)


class ClassificationLoss:
    """Mean classification loss of a batch, for plain and for interpolative images.

    Args:
        name: a key of `CLASS_LOSSES`.
        counts: [K] training images per class.

    Raises:
        UserError: the loss is unknown.
    """

    def __init__(self, name: str, counts: torch.Tensor) -> None:
        if name not in CLASS_LOSSES:
            raise UserError(f"There is no loss {name!r}. {nearest(name, CLASS_LOSSES)}")
        self.costs, self.counts = CLASS_LOSSES[name], counts.float()

    def __call__(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the mean loss for logits [B, K] and classes y [B] (L_ce of equation 6 by default)."""
        return F.nll_loss(-self.costs(logits.float(), self.counts), y)

    def interpolative(
        self, logits: torch.Tensor, y_h: torch.Tensor, y_t: torch.Tensor, lam: Lambda
    ) -> torch.Tensor:
        """Return the mean loss of interpolative images (L_ce^it of equation 7 by default).

        The arguments are those of `losses.interpolative_cross_entropy`.
        """
        return interpolated(self.costs(logits.float(), self.counts), y_h, y_t, lam)
