"""Summary of a folder of shards: splits, image sizes, class counts and class groups."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fasticcl.errors import UserError
from fasticcl.longtail import class_groups
from fasticcl.shards.manifest import MANIFEST, Manifest
from fasticcl.shards.reader import Shards

_EDGES = (1, 2, 5, 10, 20, 50, 101, 200, 500, 1000, 2000, 5000, 10_000)
_MAX_MEASURED = 1_000_000  # images, sampled evenly from a larger split


@dataclass(frozen=True)
class SplitSummary:
    """Summary of one split."""

    images: int
    shards: int
    bytes: int
    heights: tuple[int, int, int]
    """Smallest, median and largest height in pixels."""
    widths: tuple[int, int, int]
    """Smallest, median and largest width in pixels."""


@dataclass(frozen=True)
class Summary:
    """Summary of a folder of shards."""

    manifest: Manifest
    splits: dict[str, SplitSummary]
    counts: NDArray[np.int64]
    """[K] number of training images per class."""

    @property
    def imbalance(self) -> float:
        """Size of the largest class divided by that of the smallest."""
        return float(self.counts.max() / self.counts.min())

    @property
    def groups(self) -> dict[str, tuple[int, int]]:
        """Number of classes and of training images in each class group (section 4.2 of the paper)."""
        return {
            name: (int(members.sum()), int(self.counts[members].sum()))
            for name, members in class_groups(self.counts).items()
        }

    @property
    def histogram(self) -> list[tuple[int, int, int]]:
        """Histogram of the class sizes as (first size, last size, number of classes), smallest first."""
        smallest = max(edge for edge in _EDGES if edge <= self.counts.min())
        edges = [edge for edge in _EDGES if smallest <= edge <= self.counts.max()]
        classes, _ = np.histogram(self.counts, bins=[*edges, np.inf])
        lasts = [edge - 1 for edge in edges[1:]] + [int(self.counts.max())]
        return list(zip(edges, lasts, classes.tolist(), strict=True))


def read_summary(dest: Path) -> Summary:
    """Return the summary of a folder of shards, from the manifest and the indexes.

    Raises:
        UserError: there are no shards, or they are damaged.
    """
    manifest = Manifest.read(dest)
    if manifest is None:
        raise UserError(f"There are no shards in {dest}: it has no {MANIFEST}.")
    shards = {split: Shards(dest, split) for split in manifest.splits}
    splits = {split: _split_summary(split_shards) for split, split_shards in shards.items()}
    return Summary(manifest, splits, shards["train"].counts)


def _split_summary(shards: Shards) -> SplitSummary:
    measured = shards.index[:: -(-len(shards) // _MAX_MEASURED)]
    infos = shards.manifest.splits[shards.split].shards
    return SplitSummary(
        images=len(shards),
        shards=len(infos),
        bytes=sum(info.bytes for info in infos),
        heights=_min_median_max(measured["height"]),
        widths=_min_median_max(measured["width"]),
    )


def _min_median_max(values: NDArray[np.integer]) -> tuple[int, int, int]:
    return int(values.min()), int(np.median(values)), int(values.max())
