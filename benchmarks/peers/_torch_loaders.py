"""Two torch DataLoaders, class-agnostic and class-balanced, zipped and mixed; torchvision's transforms."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from _peer import LISTED, MEAN, STD, Pairs, Settings, Variants
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler
from torchvision import transforms as v1
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

Images = Iterable[Sequence[torch.Tensor]]
"""Batches (x, y) of one stream."""


class Listed(Dataset[Any]):
    """A dataset whose epoch comes to every image `LISTED` times.

    A small benchmark would drain the workers' queues at the end of every short epoch; this makes the
    epoch as long as that of a real dataset and spares the peer the stalls.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return LISTED * len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index % len(self.dataset)]


def two_loaders(dataset: Any, labels: Sequence[int], settings: Settings, workers: int) -> Iterator[Pairs]:
    """Yield what two zipped DataLoaders over (image, label) give; each has so many workers."""
    targets = np.tile(labels, LISTED)
    weights = 1 / np.bincount(targets)[targets]
    balanced = WeightedRandomSampler(weights.tolist(), len(weights), replacement=True)
    common: dict[str, Any] = {
        "batch_size": settings.batch_size,
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "drop_last": True,
    }
    agnostic = DataLoader(Listed(dataset), shuffle=True, **common)
    return mixed(agnostic, DataLoader(Listed(dataset), sampler=balanced, **common))


def mixed(agnostic: Images, aware: Images) -> Iterator[Pairs]:
    """Yield pairs without end, epoch after epoch; one λ for a batch."""
    while True:
        for (x_h, y_h), (x_t, y_t) in zip(agnostic, aware, strict=False):
            yield mixture(x_h, y_h, x_t, y_t)


def mixture(x_h: torch.Tensor, y_h: torch.Tensor, x_t: torch.Tensor, y_t: torch.Tensor) -> Pairs:
    """Return the pairs of a batch, with one λ; lerp reads and writes every pixel once."""
    lam = torch.rand(())
    return Pairs(x_h, y_h, torch.lerp(x_t, x_h, lam.item()), y_t, lam)


def each_way(ways: dict[str, Callable[[int], Iterator[Pairs]]], settings: Settings) -> Variants:
    """Return every way with every number of workers per loader that is tried.

    Tried are as many workers as cores over both loaders together, and as many for each.

    Args:
        ways: named functions of the workers per loader.
        settings: say how many cores there are.
    """
    counts = sorted({max(1, settings.cores // 2), settings.cores})
    return {
        f"{name}, workers per loader: {workers}": partial(way, workers)
        for name, way in ways.items()
        for workers in counts
    }


def of_pillow_v1(side: int) -> Callable[[Any], torch.Tensor]:
    """Return torchvision's first transforms, of Pillow images."""
    return v1.Compose(
        [v1.RandomResizedCrop(side), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(MEAN, STD)]
    )


def of_pillow_v2(side: int) -> Callable[[Any], torch.Tensor]:
    """Return the second, cropping and flipping the Pillow image."""
    return v2.Compose([v2.RandomResizedCrop(side), v2.RandomHorizontalFlip(), v2.PILToTensor(), *_to_float()])


def of_tensor_v2(side: int) -> Callable[[Any], torch.Tensor]:
    """Return the second, cropping and flipping 8-bit tensors [3, H, W]."""
    crop = v2.RandomResizedCrop(side, antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip(), *_to_float()])


def of_pillow_to_tensor_v2(side: int) -> Callable[[Any], torch.Tensor]:
    """Return the second, of Pillow images that become 8-bit tensors first, as torchvision recommends."""
    return v2.Compose([v2.PILToTensor(), of_tensor_v2(side)])


def decoded(encoded: torch.Tensor | bytes | memoryview) -> torch.Tensor:
    """Return the 8-bit image [3, H, W] of a JPEG."""
    if not isinstance(encoded, torch.Tensor):
        encoded = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
    image = decode_jpeg(encoded, mode=ImageReadMode.RGB)
    assert isinstance(image, torch.Tensor)
    return image


def _to_float() -> list[Any]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
