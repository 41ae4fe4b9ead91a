"""Class centroids (equation 1)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

CentroidNorm = Literal["none", "l2", "bias_corrected"]


class CentroidBank(nn.Module):
    """Exponential moving averages of the embeddings of each class, initialised with zeros.

    Ranks that apply the same updates on the same kind of processor have bit-identical centroids.

    Args:
        num_classes: K.
        dim: d_z, the size of an embedding.
        momentum: m of equation 1.
        norm: normalisation of `value`. ``none``: the averages of equation 1. ``l2``: unit vectors after
            each update, as in MoPro. ``bias_corrected``: averages divided by 1 - m^count, which removes
            the bias towards zero in classes with few images.

    Raises:
        ValueError: the momentum is outside [0, 1) or the norm is unknown.
    """

    centroids: torch.Tensor
    counts: torch.Tensor

    def __init__(
        self, num_classes: int, dim: int, momentum: float = 0.99, norm: CentroidNorm = "none"
    ) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        if norm not in ("none", "l2", "bias_corrected"):
            raise ValueError(f"norm must be none, l2 or bias_corrected, got {norm!r}")
        self.momentum, self.norm = momentum, norm
        self.register_buffer("centroids", torch.zeros(num_classes, dim))
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.int64))

    @property
    def value(self) -> torch.Tensor:
        """Return the centroids [K, d_z] in float32 for the losses. No gradient flows through them."""
        if self.norm != "bias_corrected":
            return self.centroids
        # float64 avoids cancellation in 1 - m^count if the momentum is close to 1.
        seen = 1 - self.momentum ** self.counts.clamp(min=1).double()
        return (self.centroids / seen[:, None]).float()

    @torch.no_grad()
    def update(self, z: torch.Tensor, y: torch.Tensor) -> None:
        """Apply equation 1 to the embeddings one after another, in closed form.

        For the n embeddings z_1..z_n of a class, c ← m^n·c + (1 - m)·Σ_j m^(n-j)·z_j. The centroids are
        replaced by a new tensor and never changed in place, because the backward pass of an earlier loss
        still needs the old ones.

        Args:
            z: [B, d_z] embeddings of class-agnostic images of the global batch.
            y: [B] classes, int64.
        """
        same = y[:, None] == y[None, :]
        later = torch.triu(same, diagonal=1).sum(dim=1)  # number of later embeddings of the same class
        weights = (1 - self.momentum) * self.momentum ** later.double()
        # A matrix product adds in the same order on every rank. index_add_ on a GPU does not, because it is
        # atomic. Neither autocast nor TF32 applies to float64.
        sums = (same.double() @ (weights[:, None] * z.detach())).to(self.centroids.dtype)
        # The last embedding of a class writes the row of the class. The others write an additional row.
        num_classes = len(self.centroids)
        rows = torch.where(later == 0, y, num_classes)
        sums = sums.new_zeros(num_classes + 1, sums.shape[1]).index_copy_(0, rows, sums)[:-1]
        counts = self.counts.new_zeros(num_classes + 1).index_copy_(0, rows, same.sum(dim=1))[:-1]
        decay = self.momentum ** counts.to(sums.dtype)
        centroids = self.centroids * decay[:, None] + sums
        self.centroids = F.normalize(centroids, dim=1) if self.norm == "l2" else centroids
        self.counts = self.counts + counts

    @contextmanager
    def static_buffers(self) -> Iterator[None]:
        """Keep the memory of the buffers, which `update` replaces, within a ``with`` block.

        The new values are copied into the old tensors at the end of the block, which must contain the
        backward pass.
        """
        centroids, counts = self.centroids, self.counts
        try:
            yield
            centroids.copy_(self.centroids)
            counts.copy_(self.counts)
        finally:
            self.centroids, self.counts = centroids, counts
