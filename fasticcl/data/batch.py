"""Batches of tensors that the loader yields, and synthetic batches for timing without a loader."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
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
    rng: np.random.Generator | None = field(default=None, kw_only=True)
    """Generator for the random choices of the method in this step, equal on all ranks. None: no choices."""

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
    """[B, 3, S, S] interpolative images: λ·x_h + (1 - λ)·x_t (equation 3), or x_h with a box of x_t
    (CutMix)."""
    y_t: torch.Tensor
    """[B] int64 classes of the class-aware images x_t."""
    lam: torch.Tensor
    """[B] float32 λ."""

    @property
    def images(self) -> int:
        """Number of images decoded for the batch, in both streams."""
        return len(self.y_h) + len(self.y_t)


@dataclass(frozen=True)
class PairBatch:
    """A batch of the interpolative phase with both streams unmixed. Images are as in `StreamBatch`."""

    x_h: torch.Tensor
    """[B, 3, S, S] class-agnostic images."""
    y_h: torch.Tensor
    """[B] int64 classes of x_h."""
    x_t: torch.Tensor
    """[B, 3, S, S] class-aware images."""
    y_t: torch.Tensor
    """[B] int64 classes of x_t."""
    lam: torch.Tensor
    """[B] float32 λ."""
    rng: np.random.Generator | None = field(default=None, kw_only=True)
    """Generator for the random choices of the method in this step, equal on all ranks. None: no choices."""

    @property
    def images(self) -> int:
        """Number of images decoded for the batch, in both streams."""
        return len(self.y_h) + len(self.y_t)


TrainingBatch = Batch | PairBatch | StreamBatch
"""A batch of any phase."""


def tensors_of(batch: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of a batch by name, without its generator."""
    return {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}


def synthetic_batch(
    phase: Phase, batch_size: int, image_size: int, num_classes: int, device: torch.device, mixed: bool = True
) -> TrainingBatch:
    """Return a batch of random images and classes. The same arguments give the same values.

    Args:
        phase: the training phase, which determines the type of the batch.
        batch_size: B.
        image_size: S, in pixels.
        num_classes: K.
        device: device of the tensors.
        mixed: False for ``data.mixing=none``.
    """
    generator = torch.Generator().manual_seed(0)

    def images() -> torch.Tensor:
        drawn = torch.randn(batch_size, 3, image_size, image_size, generator=generator)
        return drawn.to(device, memory_format=torch.channels_last)

    def labels() -> torch.Tensor:
        return torch.randint(num_classes, (batch_size,), generator=generator).to(device)

    rng = np.random.default_rng(0)
    if phase != "interpolative":
        return StreamBatch(images(), labels(), rng=rng)
    lam = torch.rand(1, generator=generator).expand(batch_size).to(device).contiguous()
    if mixed:
        return Batch(images(), labels(), images(), labels(), lam)
    return PairBatch(images(), labels(), images(), labels(), lam, rng=rng)
