"""De-confounded classifier, and the total direct effect in its evaluation (Tang et al., 2020)."""

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from fasticcl.errors import UserError


class CausalClassifier(nn.Module):
    """Classifier with normalised heads, whose evaluation can remove the effect of the mean feature.

    Features f and weights w_k are divided into H heads. With f̂^h = f^h / ‖f^h‖, the logits in training are

        z_k = τ/H · Σ_h f̂^h·w_k^h / (‖w_k^h‖ + γ).

    Each forward pass in training also updates the running mean m ← μ·m + mean(f) over the batch. Only its
    direction is used, so there is no factor 1 - μ. The logits in evaluation are those of the total direct
    effect (TDE), in which f̂^h is replaced by

        f̂^h - α · cos(f̂^h, m^h) · m^h / ‖m^h‖.

    With α = 0, as in the first stage, they are the logits of training. All logits are computed in float32.

    Args:
        feature_dim: d_g.
        num_classes: K.
        scale: τ.
        heads: H.
        gamma: γ.
        momentum: μ.
        momentum_decay: if True, μ depends on the learning rate. See `set_momentum`.

    Raises:
        UserError: the heads cannot have the same size.
    """

    averaged_buffers: ClassVar[tuple[str, ...]] = ("mean",)
    """Buffers that several ranks average after a step. The mean is linear in the features of the batch."""
    scale: torch.Tensor
    gamma: torch.Tensor
    alpha: torch.Tensor
    mean: torch.Tensor
    momentum: torch.Tensor

    def __init__(
        self,
        feature_dim: int,
        num_classes: int,
        scale: float = 16.0,
        heads: int = 2,
        gamma: float = 0.03125,
        momentum: float = 0.9,
        momentum_decay: bool = False,
    ) -> None:
        super().__init__()
        if feature_dim % heads:
            raise UserError(
                f"A causal classifier cannot divide {feature_dim} features into {heads} equal heads. Set "
                f"method.causal_heads to a divisor of {feature_dim}, such as 2."
            )
        self.initial_momentum, self.momentum_decay = momentum, momentum_decay
        self.weight = nn.Parameter(torch.empty(num_classes, feature_dim))
        self.register_buffer("scale", torch.tensor(float(scale)))
        self.register_buffer("gamma", torch.tensor(float(gamma)))
        self.register_buffer("alpha", torch.tensor(0.0))
        self.register_buffer("mean", torch.zeros(heads, feature_dim // heads))
        # A tensor, because compiled and captured steps would repeat the value of a number.
        self.register_buffer("momentum", torch.tensor(momentum), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights uniformly from ±1/√d_g. The mean does not change, because the encoder does not."""
        bound = self.weight.shape[1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def set_momentum(self, lr: float) -> None:
        """Set μ for the learning rate of an epoch: ``momentum``, or 1 - (1 - momentum) · min(50·lr, 1)."""
        decay = min(50 * lr, 1.0) if self.momentum_decay else 1.0
        self.momentum.fill_(1 - (1 - self.initial_momentum) * decay)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits [B, K] of features [B, d_g], and update the mean in training."""
        # bfloat16 would round the logits to multiples of 1/16 and more.
        with torch.autocast(features.device.type, enabled=False):
            f = F.normalize(self._heads(features.float()), dim=2)
            if self.training:
                self._update_mean(features)
            else:
                direction = F.normalize(self.mean, dim=1)
                cosines = (f * direction).sum(dim=2, keepdim=True)
                f = f - self.alpha * cosines * direction
            w = self._heads(self.weight)
            # The minimum has an effect only on weights of norm 0 with γ = 0.
            w = w / (w.norm(dim=2, keepdim=True) + self.gamma).clamp(min=1e-12)
            return self.scale / len(self.mean) * F.linear(f.flatten(1), w.flatten(1))

    def _heads(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows [N, d_g] as [N, H, d_g / H]."""
        return rows.unflatten(1, self.mean.shape)

    @torch.no_grad()
    def _update_mean(self, features: torch.Tensor) -> None:
        batch_mean = features.detach().float().mean(dim=0)
        self.mean.mul_(self.momentum).add_(batch_mean.view_as(self.mean))
