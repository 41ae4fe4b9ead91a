"""The network of section 3.1: encoder, projection head and linear classifier."""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F

from fasticcl.method.encoders import build_encoder


class Output(NamedTuple):
    """What one forward pass yields."""

    logits: torch.Tensor
    """[B, K] class logits of the linear classifier."""
    embedding: torch.Tensor | None
    """[B, d_z] float32 unit vectors z; None without a projection head."""

    def part(self, stream: int) -> "Output":
        """Return the first or second half of the batch."""
        half = len(self.logits) // 2
        rows = slice(stream * half, (stream + 1) * half)
        return Output(self.logits[rows], None if self.embedding is None else self.embedding[rows])


class SplitBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation with statistics of its own for each of ``streams`` equal parts of the batch.

    The parts update the running statistics one after the other, as separate forward passes would.
    """

    streams = 1

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return normalised activations of the same shape."""
        if not self.training or self.streams == 1:
            return super().forward(input)
        return torch.cat([nn.BatchNorm2d.forward(self, part) for part in input.chunk(self.streams)])


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation with the statistics of the global batch, over all ranks; on CPUs too.

    ``torch.nn.SyncBatchNorm`` knows GPUs only.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return normalised activations of the same shape."""
        if not (self.training and dist.is_initialized()):
            return super().forward(input)
        x = input.float()
        count = dist.get_world_size() * x.numel() / x.shape[1]
        mean = all_reduce(x.sum(dim=(0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = all_reduce(centred.square().sum(dim=(0, 2, 3))) / count
        self._keep(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _keep(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        assert self.running_mean is not None, "encoders keep running statistics"
        assert self.running_var is not None, "encoders keep running statistics"
        assert self.num_batches_tracked is not None, "encoders keep running statistics"
        self.running_mean.lerp_(mean, self.momentum or 0.1)
        self.running_var.lerp_(variance, self.momentum or 0.1)
        self.num_batches_tracked += 1


def synchronise_batch_norm(network: nn.Module) -> None:
    """Have a network normalise with the statistics of the global batch instead of each rank's own."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d  # same parameters and buffers, another forward


class Network(nn.Module):
    """Encoder, linear classifier and, while representations are learnt, a projection head.

    Args:
        encoder: name of the CNN encoder.
        num_classes: K.
        embedding_dim: d_z; 0 leaves the projection head out.
        split_bn: whether batch statistics can be split by stream, see `use_streams`.
    """

    def __init__(
        self, encoder: str, num_classes: int, embedding_dim: int = 0, split_bn: bool = False
    ) -> None:
        super().__init__()
        self.encoder, feature_dim = build_encoder(encoder)
        self.classifier = nn.Linear(feature_dim, num_classes)
        self.projection = (
            nn.Sequential(
                nn.Linear(feature_dim, feature_dim), nn.ReLU(), nn.Linear(feature_dim, embedding_dim)
            )
            if embedding_dim
            else None
        )
        if split_bn:
            for module in self.modules():
                if type(module) is nn.BatchNorm2d:
                    module.__class__ = SplitBatchNorm2d  # same parameters and buffers, another forward

    def forward(self, images: torch.Tensor) -> Output:
        """Return logits and embeddings of images [B, 3, H, W]."""
        features = self.encoder(images)
        logits = self.classifier(features)
        if self.projection is None:
            return Output(logits, None)
        return Output(logits, F.normalize(self.projection(features).float(), dim=1))

    def use_streams(self, streams: int) -> None:
        """Say how many streams the next batches concatenate (``split_bn`` networks only)."""
        for module in self.modules():
            if isinstance(module, SplitBatchNorm2d):
                module.streams = streams
