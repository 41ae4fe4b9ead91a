"""What a folder of shards holds, in numbers."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fasticcl.errors import UserError
from fasticcl.longtail import class_groups
from fasticcl.shards.manifest import MANIFEST, Manifest
from fasticcl.shards.reader import Shards

_EDGES = (1, 2, 5, 10, 20, 50, 101, 200, 500, 1000, 2000, 5000, 10_000)
_MEASURED = 1_000_000  # images whose sizes are looked at; a larger split is sampled evenly


@dataclass(frozen=True)
class SplitSummary:
    """One split in numbers."""

    images: int
    shards: int
    bytes: int
    heights: tuple[int, int, int]
    """Smallest, median and largest height in pixels."""
    widths: tuple[int, int, int]
    """Smallest, median and largest width in pixels."""


@dataclass(frozen=True)
class Summary:
    """A folder of shards in numbers."""

    manifest: Manifest
    splits: dict[str, SplitSummary]
    counts: NDArray[np.int64]
    """[K] training images per class."""

    @property
    def imbalance(self) -> float:
        """Largest over smallest class."""
        return float(self.counts.max() / self.counts.min())

    @property
    def groups(self) -> dict[str, tuple[int, int]]:
        """Classes and training images of many, medium and few (section 4.2)."""
        return {
            name: (int(members.sum()), int(self.counts[members].sum()))
            for name, members in class_groups(self.counts).items()
        }

    @property
    def histogram(self) -> list[tuple[int, int, int]]:
        """Classes by size, smallest first: from so many images, to so many, how many classes."""
        smallest = max(edge for edge in _EDGES if edge <= self.counts.min())
        edges = [edge for edge in _EDGES if smallest <= edge <= self.counts.max()]
        found, _ = np.histogram(self.counts, bins=[*edges, np.inf])
        lasts = [edge - 1 for edge in edges[1:]] + [int(self.counts.max())]
        return list(zip(edges, lasts, found.tolist(), strict=True))


def summarise(dest: Path) -> Summary:
    """Read manifest and indexes.

    Raises:
        UserError: there are no shards, or they are damaged.
    """
    manifest = Manifest.read(dest)
    if manifest is None:
        raise UserError(f"There are no shards in {dest}: it has no {MANIFEST}.")
    opened = {split: Shards(dest, split) for split in manifest.splits}
    found = {split: _summarise_split(shards) for split, shards in opened.items()}
    return Summary(manifest, found, opened["train"].counts)


def _summarise_split(shards: Shards) -> SplitSummary:
    measured = shards.index[:: -(-len(shards) // _MEASURED)]
    infos = shards.manifest.splits[shards.split].shards
    return SplitSummary(
        images=len(shards),
        shards=len(infos),
        bytes=sum(info.bytes for info in infos),
        heights=_extent(measured["height"]),
        widths=_extent(measured["width"]),
    )


def _extent(values: NDArray[np.integer]) -> tuple[int, int, int]:
    return int(values.min()), int(np.median(values)), int(values.max())
