"""The classifier with a memory of class centroids, and its centroid loss (OLTR, Liu et al., 2019).

The formulas are those of the official code (zhmiao/OpenLongTailRecognition-OLTR), which differ from those of
the paper. The official network has another layer (512 numbers, ReLU) between the encoder and the memory. It
is left out: the memory works on the features of the encoder, for which the first stage has trained both the
linear classifier, from which the hallucinator starts, and the class means, from which the centroids start.
The official code computes the class means through the random weights of that layer.
"""

import torch
from torch import nn
from torch.nn import functional as F

from fasticcl.system.ranks import Ranks

_LOGIT_SCALE = 16.0
_REACH = 10.0
_MARGIN = 10.0
_REPULSION_WEIGHT = 0.01


class MemoryClassifier(nn.Module):
    """Cosine classifier of features v that are enriched with a memory, computed in float32.

    The memory feature is v_m = Σ_k softmax_k(W_h·v + b_h)·c_k, with the class centroids c_k. A selector
    e = tanh(W_s·v + b_s) decides how much of it is added: u = v + e⊙v_m. The distance to the nearest centroid
    d = min_k ‖v - c_k‖ scales the result: v* = (10/d)·u. The logits are 16·‖v*‖/(1 + ‖v*‖)·cos(w_k, v*).

    Args:
        feature_dim: d_g.
        num_classes: K.
    """

    def __init__(self, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, feature_dim))
        self.hallucinator = nn.Linear(feature_dim, num_classes)
        self.selector = nn.Linear(feature_dim, feature_dim)
        self.centroids = nn.Parameter(torch.empty(num_classes, feature_dim))
        """[K, d_g]. The logits have no gradient for them. `centroid_loss` trains them."""
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights of the range ±1/√d_g, and set the centroids to 0."""
        bound = self.weight.shape[1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        self.hallucinator.reset_parameters()
        self.selector.reset_parameters()
        nn.init.zeros_(self.centroids)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits [B, K] of features [B, d_g]."""
        # bfloat16 would round distances and logits to equal values.
        with torch.autocast(features.device.type, enabled=False):
            v, centroids = features.float(), self.centroids.detach()
            memory = self.hallucinator(v).softmax(dim=1) @ centroids
            u = v + self.selector(v).tanh() * memory
            distance = torch.linalg.vector_norm(v - nearest(v, centroids), dim=1, keepdim=True)
            length = _REACH * torch.linalg.vector_norm(u, dim=1, keepdim=True)
            # This is ‖v*‖/(1 + ‖v*‖), multiplied by d so that it is also finite for d = 0.
            squashed = length / (distance + length).clamp(min=1e-12)
            cosines = F.linear(F.normalize(u, dim=1), F.normalize(self.weight, dim=1))
            return _LOGIT_SCALE * squashed * cosines


def nearest(v: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Return the centroid [B, D] that is nearest to each row of v [B, D]. It has no gradient."""
    # A matrix product needs no [B, K, D] of differences. Only the choice is affected by its rounding.
    with torch.no_grad():
        products = v @ centroids.T
        return centroids[(centroids.square().sum(dim=1) - 2 * products).argmin(dim=1)]


def centroid_loss(
    features: torch.Tensor,
    centroids: torch.Tensor,
    y: torch.Tensor,
    weight: float,
    ranks: Ranks | None = None,
) -> torch.Tensor:
    """Return the loss that attracts features to their own centroid and repels them from the others.

    With the B samples of the batch, the value is ``weight`` times ½·Σ_b ‖v_b - c_{y_b}‖² / B +
    0.01·max(0, 10 - Σ_b Σ_{k≠y_b} ‖v_b - c_k‖² / (B·K)). The gradients are those of the official
    DiscCentroidsLoss, whose attraction has its own gradient for the centroids: it does not depend on
    ``weight``, and each class is divided by 1 + n_k, its samples in the batch:
    Σ_{b: y_b=k} (c_k - v_b) / ((1 + n_k)·B). So ``weight`` determines how much the features are attracted,
    but not how fast the centroids follow them.

    On several ranks, n_k counts the global batch, and the maximum is that of its mean distance.

    Args:
        features: [B, D].
        centroids: [K, D].
        y: [B] classes.
        weight: weight of the loss.
        ranks: the processes whose gradients are averaged.
    """
    ranks = ranks or Ranks()
    with torch.autocast(features.device.type, enabled=False):
        v = features.float()
        # The gradient of an embedding is added in a fixed order, unlike that of indexing.
        own = F.embedding(y, centroids)
        attraction = 0.5 * (v - own.detach()).square().sum(dim=1).mean()
        squared = v.square().sum(dim=1, keepdim=True) - 2 * v @ centroids.T + centroids.square().sum(dim=1)
        distance = squared.scatter(1, y[:, None], 0.0).mean()
        global_distance = ranks.all_reduce(distance.detach()) / ranks.world_size
        repulsion = torch.where(global_distance < _MARGIN, _MARGIN - distance, 0.0)
        counts = (y[:, None] == ranks.all_gather(y)).sum(dim=1)
        following = 0.5 * ((v.detach() - own).square().sum(dim=1) / (1 + counts)).mean()
        loss = weight * (attraction + _REPULSION_WEIGHT * repulsion)
        return loss + following - following.detach()
