"""The training images that settings are chosen on: those that are held back and can be read."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fasticcl.config import Config
from fasticcl.data import graph
from fasticcl.engine.dataset import Dataset
from fasticcl.engine.evaluate import balanced_accuracy, count_correct
from fasticcl.engine.loaders import holdout_batches
from fasticcl.errors import TrainingFailed
from fasticcl.shards.reader import DamagedImages, Shards
from fasticcl.system.machine import Machine


@dataclass(frozen=True)
class HeldBack:
    """Held-back images, the same for every setting."""

    config: Config
    """Of any setting: what it says of the data is common to all."""
    dataset: Dataset
    """Its ``held_back`` are these images alone."""
    machine: Machine
    """Where accuracies are computed."""

    @classmethod
    def readable(
        cls,
        config: Config,
        dataset: Dataset,
        machine: Machine,
        bad_rows: Iterable[int],
        warn: Callable[[str], None],
    ) -> "HeldBack":
        """Return the images that a dataset holds back, without those that cannot be read.

        Args:
            config: of any setting.
            dataset: the opened splits; training goes on to leave out all that these hold back.
            machine: where accuracies are computed.
            bad_rows: training images that are known to be unreadable.
            warn: called with a sentence for each that is found now.

        Raises:
            TrainingFailed: more than ``data.max_bad_samples`` are found.
        """
        rows = np.setdiff1d(dataset.holdout_rows, [*bad_rows])
        found = cls(config, replace(dataset, holdout_rows=rows), machine)
        if not len(rows):
            return found
        try:
            for _ in holdout_batches(config, found.dataset, machine):
                pass
        except TrainingFailed:
            bad = [row for row in rows.tolist() if not _reads(dataset.train, row)]
            if not 0 < len(bad) <= config.data.max_bad_samples:
                raise
            for row in bad:
                warn(f"warning  {dataset.train.name(row)}: cannot be read; the choice rests on the others")
            found = replace(found, dataset=replace(dataset, holdout_rows=np.setdiff1d(rows, bad)))
        return found

    @property
    def rows(self) -> NDArray[np.int64]:
        """Their rows of the training split, sorted."""
        return self.dataset.holdout_rows

    @property
    def classes(self) -> int:
        """How many classes have one among them."""
        return len(np.unique(self.dataset.train.index["label"][self.rows]))

    def accuracies(self, encoder: nn.Module, classifiers: Sequence[nn.Module]) -> list[float | None]:
        """Return the class-balanced accuracy of every classifier, in percent; None without an image."""
        if not len(self.rows):
            return [None] * len(classifiers)
        batches = holdout_batches(self.config, self.dataset, self.machine)
        right, seen = count_correct(encoder, classifiers, batches, self.dataset.num_classes, self.machine)
        return [balanced_accuracy(each, seen) for each in right]


def _reads(shards: Shards, row: int) -> bool:
    try:
        return graph.decodes(shards.graph_input(np.array([row]))[0])
    except DamagedImages:
        return False
