"""The holdout images of a sweep: training images on which the best settings are chosen."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fasticcl.config import Config
from fasticcl.data.bad_samples import UnreadableImages, unreadable_rows
from fasticcl.data.dali.decoding import Decoder
from fasticcl.engine.dataset import Dataset
from fasticcl.engine.evaluate import balanced_accuracy, count_correct
from fasticcl.engine.loaders import holdout_batches
from fasticcl.system.machine import Machine
from fasticcl.system.resources import decoding_threads


@dataclass(frozen=True)
class HoldoutSet:
    """The readable holdout images, the same for all combinations of a sweep."""

    config: Config
    """The configuration of any combination, because all have the same data settings."""
    dataset: Dataset
    """The opened splits, with these images as their holdout."""
    machine: Machine
    """The machine that evaluates."""

    @classmethod
    def readable(
        cls,
        config: Config,
        dataset: Dataset,
        machine: Machine,
        bad_rows: Iterable[int],
        warn: Callable[[str], None],
    ) -> "HoldoutSet":
        """Return the holdout of a dataset without the images that cannot be read.

        Args:
            config: the configuration of any combination.
            dataset: the opened splits. Training on them still excludes the unreadable holdout images.
            machine: the machine that evaluates.
            bad_rows: training images that are known to be unreadable.
            warn: called with one sentence for each newly found unreadable image.

        Raises:
            TrainingFailed: more than ``data.max_bad_samples`` images are unreadable, or DALI failed for
                another reason than an image.
        """
        rows = np.setdiff1d(dataset.holdout_rows, [*bad_rows])
        holdout = cls(config, replace(dataset, holdout_rows=rows), machine)
        if not len(rows):
            return holdout
        try:
            for _ in holdout_batches(config, holdout.dataset, machine):
                pass
        except UnreadableImages:
            threads = config.engine.workers or decoding_threads(machine.gpu is not None)
            decoder = Decoder(threads, machine.gpu, config.data.hw_decoder_load)
            bad = unreadable_rows(dataset.train, rows, decoder)
            if not 0 < len(bad) <= config.data.max_bad_samples:
                raise
            for row in bad:
                warn(f"warning  {dataset.train.name(row)} cannot be read and is left out of the holdout")
            holdout = replace(holdout, dataset=replace(dataset, holdout_rows=np.setdiff1d(rows, bad)))
        return holdout

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows of the images in the training split, sorted."""
        return self.dataset.holdout_rows

    @property
    def num_classes(self) -> int:
        """Number of classes with at least one image."""
        return len(np.unique(self.dataset.train.index["label"][self.rows]))

    def accuracies(self, encoder: nn.Module, classifiers: Sequence[nn.Module]) -> list[float | None]:
        """Return the class-balanced accuracy of each classifier in percent, or None without images."""
        if not len(self.rows):
            return [None] * len(classifiers)
        batches = holdout_batches(self.config, self.dataset, self.machine)
        right, seen = count_correct(encoder, classifiers, batches, self.dataset.num_classes, self.machine)
        return [balanced_accuracy(counts, seen) for counts in right]
