"""Batches as the loader gives them, without images: for what is to be timed without a loader."""

import torch

from fasticcl.data.loader import Batch, StreamBatch
from fasticcl.data.plan import Phase


def synthetic_batch(
    phase: Phase, batch_size: int, image_size: int, num_classes: int, device: torch.device
) -> Batch | StreamBatch:
    """Return random images and classes on the device; the same arguments give the same numbers.

    Args:
        phase: whose batch.
        batch_size: B.
        image_size: S.
        num_classes: K.
        device: where it goes.
    """
    generator = torch.Generator().manual_seed(0)

    def images() -> torch.Tensor:
        drawn = torch.randn(batch_size, 3, image_size, image_size, generator=generator)
        return drawn.to(device, memory_format=torch.channels_last)

    def labels() -> torch.Tensor:
        return torch.randint(num_classes, (batch_size,), generator=generator).to(device)

    if phase != "interpolative":
        return StreamBatch(images(), labels())
    lam = torch.rand(1, generator=generator).expand(batch_size).to(device)
    return Batch(images(), labels(), images(), labels(), lam.contiguous())
