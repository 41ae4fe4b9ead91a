"""The data of a cell, from the manifest of its shards: evaluated split, images, and classes in each group."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from fasticcl.config import Data
from fasticcl.errors import UserError
from fasticcl.longtail import class_groups
from fasticcl.shards.manifest import Manifest
from fasticcl.shards.published_subset import subset_note


@dataclass(frozen=True)
class DataFacts:
    """Facts about the data of a run."""

    split: str
    """The evaluated split."""
    train_images: int
    evaluated_images: int
    classes: int
    evaluated_classes: dict[str, int]
    """Number of classes with evaluated images in each of the groups many, medium and few."""
    sha256: str
    """Checksum of the training data."""
    subset: str | None = None
    """The choice of the training images in words. None: all images, or the published choice."""
    subset_note: str = ""
    """A sentence on the choice of the training images, or an empty string."""

    @classmethod
    def read(cls, data: Data) -> Self | None:
        """Return the facts from the manifest of the shards, or None if there is no readable manifest."""
        try:
            manifest = Manifest.read(Path(data.dir))
        except UserError:
            return None
        if manifest is None:
            return None
        splits = (data.eval_split,) if data.eval_split != "auto" else ("test", "val")
        split = next((name for name in splits if name in manifest.splits), None)
        if split is None:
            return None
        train, evaluated = (
            np.array(manifest.splits[name].class_counts, dtype=np.int64) for name in ("train", split)
        )
        groups = class_groups(train)
        return cls(
            split=split,
            train_images=int(train.sum()),
            evaluated_images=int(evaluated.sum()),
            classes=len(manifest.classes),
            evaluated_classes={
                name: int((members & (evaluated > 0)).sum()) for name, members in groups.items()
            },
            sha256=manifest.source_sha256,
            subset=_subset(manifest),
            subset_note=subset_note(manifest),
        )

    def tail_accuracy(self, medium: float | None, few: float | None) -> float | None:
        """Return the mean accuracy of the medium and few-shot classes together, from the means of each.

        It is None if there are no such classes.
        """
        groups = [(self.evaluated_classes[name], value) for name, value in (("medium", medium), ("few", few))]
        known = [(number, value) for number, value in groups if value is not None]
        total = sum(number for number, _ in known)
        return sum(number * value for number, value in known) / total if total else None


def _subset(manifest: Manifest) -> str | None:
    if "subset" in manifest.settings:
        return str(manifest.settings["subset"])
    return "long tail" if manifest.settings.get("long_tail") else None
