"""Numbers of images and classes of the datasets."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fasticcl.config import Config
from fasticcl.longtail import exponential_counts

_OTHER_CLASSES = 1000
_LARGEST_CLASS = {"cifar100-lt": 500, "cifar10-lt": 5000, "demo": 142}
_DEMO_IMBALANCE = 50


@dataclass(frozen=True)
class _Published:
    classes: int
    train: int | None
    """None: it follows from the imbalance ratio."""
    evaluated: int


_PUBLISHED = {
    "inat2018": _Published(8142, 437_513, 24_426),
    "imagenet-lt": _Published(1000, 115_846, 50_000),
    "cifar100-lt": _Published(100, None, 10_000),
    "cifar10-lt": _Published(10, None, 10_000),
    "demo": _Published(10, None, 359),
}


def num_classes(dataset: str) -> int:
    """Return the number of classes K of a dataset preset, or 1,000 for a folder of images."""
    return _PUBLISHED[dataset].classes if dataset in _PUBLISHED else _OTHER_CLASSES


@dataclass(frozen=True)
class DatasetSizes:
    """The numbers of images on which the length of a run depends."""

    counts: NDArray[np.integer]
    """[K] training images per class. Equal for datasets of which only the total is known."""
    train: int
    """Training images, without those of the holdout."""
    evaluated: int
    """Images of the evaluated split."""
    from_shards: bool
    """False: there are no shards, and the sizes are the published ones."""

    @classmethod
    def published(cls, config: Config) -> "DatasetSizes | None":
        """Return the published sizes, or None for a folder of images."""
        name = config.data.dataset
        if name not in _PUBLISHED:
            return None
        known = _PUBLISHED[name]
        if known.train is None:
            imbalance = config.data.imbalance or _DEMO_IMBALANCE
            counts = exponential_counts(_LARGEST_CLASS[name], known.classes, imbalance)
        else:
            counts = np.full(known.classes, known.train // known.classes)
        return cls(counts, known.train or int(counts.sum()), known.evaluated, from_shards=False)
