"""Classification losses by name. To add one, write a module here and add a line to `CLASS_LOSSES`.

The paper uses cross-entropy (equation 6). Other losses l are mixed like equation 7:
λ·l(x_f, y_h) + (1 - λ)·l(x_f, y_t).
"""

from abc import ABC, abstractmethod

import torch
from torch.nn import functional as F

from fasticcl.config import Method
from fasticcl.errors import UserError, nearest
from fasticcl.method.class_weights import ClassWeights
from fasticcl.method.losses import Lambda, interpolated
from fasticcl.registry import Registry
from fasticcl.system.ranks import Ranks


class ClassLoss(ABC):
    """A loss as a function of the logits, created once for a dataset.

    Args:
        counts: [K] training images per class.
        settings: the section ``method``.
    """

    initial_bias: float | None = None
    """Initial bias of the classifier, which then has no weight decay. None: PyTorch's initialisation."""

    def __init__(self, counts: torch.Tensor, settings: Method) -> None:
        self.counts, self.settings = counts, settings

    @abstractmethod
    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the costs [B, K] of float32 logits [B, K].

        A cost is the loss of a sample for a class as its label.
        """


class CrossEntropy(ClassLoss):
    """Cross-entropy (equation 6)."""

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Return -log p^k, [B, K]."""
        return -F.log_softmax(logits, dim=1)


CLASS_LOSSES: Registry[type[ClassLoss]] = Registry(
    "fasticcl.method",
    {
        "cross_entropy": "class_losses.CrossEntropy",
        "balanced_softmax": "logit_adjustment.BalancedSoftmax",
        "focal": "focal.Focal",
        "ldam": "ldam.LDAM",
        "logit_adjustment": "logit_adjustment.LogitAdjustment",
        "sigmoid_focal": "focal.SigmoidFocal",
    },
)


class ClassificationLoss:
    """Mean classification loss of a batch, for plain and for interpolative images.

    Args:
        settings: the section ``method``, with the name of the loss and the class weights.
        counts: [K] training images per class.
        ranks: the processes that train together.

    Raises:
        UserError: the loss is unknown.
    """

    def __init__(self, settings: Method, counts: torch.Tensor, ranks: Ranks | None = None) -> None:
        name = settings.class_loss
        if name not in CLASS_LOSSES:
            raise UserError(f"There is no loss {name!r}. {nearest(name, CLASS_LOSSES)}")
        counts = counts.float()
        self.costs = CLASS_LOSSES[name](counts, settings)
        self.weights = (
            ClassWeights(counts, settings, ranks or Ranks()) if settings.class_weight_beta else None
        )

    def use_weights(self, enabled: bool) -> None:
        """Use the class weights from now on, or weights of 1. Without class weights this has no effect."""
        if self.weights:
            self.weights.enable(enabled)

    def __call__(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the mean loss for logits [B, K] and classes y [B] (L_ce of equation 6 by default)."""
        costs = self.costs(logits.float())
        if self.weights is None:
            return F.nll_loss(-costs, y)
        return self.weights.mean(costs, (1.0, y))

    def interpolative(
        self, logits: torch.Tensor, y_h: torch.Tensor, y_t: torch.Tensor, lam: Lambda
    ) -> torch.Tensor:
        """Return the mean loss of interpolative images (L_ce^it of equation 7 by default).

        The arguments are those of `losses.interpolative_cross_entropy`.
        """
        costs = self.costs(logits.float())
        if self.weights is None:
            return interpolated(costs, y_h, y_t, lam)
        return self.weights.mean(costs, (lam, y_h), (1 - lam, y_t))
