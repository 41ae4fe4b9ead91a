"""Two zipped torch DataLoaders, class-agnostic and class-balanced, with mixing and torchvision transforms."""

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
    """A dataset that repeats every image `LISTED` times in an epoch.

    The epochs are then as long as those of a real dataset. Short epochs would often drain the queues of the
    workers.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return LISTED * len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index % len(self.dataset)]


def two_loaders(dataset: Any, labels: Sequence[int], settings: Settings, workers: int) -> Iterator[Pairs]:
    """Yield pairs from two zipped DataLoaders over (image, label), with ``workers`` each."""
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
    """Yield pairs epoch after epoch, without end."""
    while True:
        for (x_h, y_h), (x_t, y_t) in zip(agnostic, aware, strict=False):
            yield mixture(x_h, y_h, x_t, y_t)


def mixture(x_h: torch.Tensor, y_h: torch.Tensor, x_t: torch.Tensor, y_t: torch.Tensor) -> Pairs:
    """Mix a batch with one λ. ``lerp`` reads and writes every pixel only once."""
    lam = torch.rand(())
    return Pairs(x_h, y_h, torch.lerp(x_t, x_h, lam.item()), y_t, lam)


def worker_variants(loaders: dict[str, Callable[[int], Iterator[Pairs]]], settings: Settings) -> Variants:
    """Return two variants of every loader: one worker per core in total, and one per core and stream.

    Args:
        loaders: functions of the number of workers per stream, by name.
        settings: contain the number of cores.
    """
    counts = sorted({max(1, settings.cores // 2), settings.cores})
    return {
        f"{name}, workers per loader: {workers}": partial(loader, workers)
        for name, loader in loaders.items()
        for workers in counts
    }


def of_pillow_v1(side: int) -> Callable[[Any], torch.Tensor]:
    """Return torchvision transforms v1 for Pillow images."""
    return v1.Compose(
        [v1.RandomResizedCrop(side), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(MEAN, STD)]
    )


def of_pillow_v2(side: int) -> Callable[[Any], torch.Tensor]:
    """Return transforms v2 that crop and flip the Pillow image."""
    return v2.Compose([v2.RandomResizedCrop(side), v2.RandomHorizontalFlip(), v2.PILToTensor(), *_to_float()])


def of_tensor_v2(side: int) -> Callable[[Any], torch.Tensor]:
    """Return transforms v2 for uint8 tensors [3, H, W]."""
    crop = v2.RandomResizedCrop(side, antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip(), *_to_float()])


def of_pillow_to_tensor_v2(side: int) -> Callable[[Any], torch.Tensor]:
    """Return transforms v2 that first convert Pillow images to uint8 tensors, as torchvision recommends."""
    return v2.Compose([v2.PILToTensor(), of_tensor_v2(side)])


def decoded(encoded: torch.Tensor | bytes | memoryview) -> torch.Tensor:
    """Decode a JPEG to a uint8 image [3, H, W]."""
    if not isinstance(encoded, torch.Tensor):
        encoded = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
    image = decode_jpeg(encoded, mode=ImageReadMode.RGB)
    assert isinstance(image, torch.Tensor)
    return image


def _to_float() -> list[Any]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
