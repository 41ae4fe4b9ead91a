"""Batches of tensors that the loader yields, and synthetic batches for timing without a loader."""

from dataclasses import dataclass

import torch

from fasticcl.data.plan import Phase


@dataclass(frozen=True)
class StreamBatch:
    """A batch of one stream, for warm-up, rebalancing or evaluation.

    Images are float32, normalised and in channels_last memory format, on the loader's device.
    """

    x: torch.Tensor
    """[B, 3, S, S] images."""
    y: torch.Tensor
    """[B] int64 classes."""

    @property
    def images(self) -> int:
        """Number of images decoded for the batch."""
        return len(self.y)


@dataclass(frozen=True)
class Batch:
    """A batch of the interpolative phase with both streams. Images are as in `StreamBatch`."""

    x_h: torch.Tensor
    """[B, 3, S, S] class-agnostic images."""
    y_h: torch.Tensor
    """[B] int64 classes of x_h."""
    x_f: torch.Tensor
    """[B, 3, S, S] interpolative images λ·x_h + (1 - λ)·x_t (equation 3)."""
    y_t: torch.Tensor
    """[B] int64 classes of the class-aware images x_t."""
    lam: torch.Tensor
    """[B] float32 λ."""

    @property
    def images(self) -> int:
        """Number of images decoded for the batch, in both streams."""
        return len(self.y_h) + len(self.y_t)


def synthetic_batch(
    phase: Phase, batch_size: int, image_size: int, num_classes: int, device: torch.device
) -> Batch | StreamBatch:
    """Return a batch of random images and classes. The same arguments give the same values.

    Args:
        phase: the training phase, which determines the type of the batch.
        batch_size: B.
        image_size: S, in pixels.
        num_classes: K.
        device: device of the tensors.
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
