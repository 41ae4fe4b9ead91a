"""The result of a sweep, and its files ``sweep.json`` and ``sweep.csv``."""

import csv
import io
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fasticcl.engine.evaluate import METRICS, Metrics
from fasticcl.files import write_file

Criterion = Literal["holdout", "simulated"]
"""The accuracy by which the best entry is chosen."""


@dataclass(frozen=True)
class Holdout:
    """Description of the holdout images in ``sweep.json``."""

    holdout: float
    """Share of each class if below 1, otherwise the number of images per class. 0 means no holdout."""
    images: int
    """Number of images."""
    classes: int
    """Number of classes with at least one image."""
    seen: bool
    """True if the representation stage trained on these images, which makes their accuracy optimistic."""


@dataclass(frozen=True)
class SweepEntry:
    """One combination of values and its accuracies."""

    values: dict[str, Any]
    """Values of the swept settings, by ``rebalance.key``."""
    same_as_run: bool
    """True if the run itself was rebalanced with the same settings."""
    metrics: Metrics
    """Accuracies on the evaluated split at the last epoch. All are None if the weights are not finite."""
    holdout_accuracy: float | None
    """Class-balanced accuracy on the holdout images in percent. None if there are no holdout images."""
    simulated_accuracy: float | None
    """Accuracy on features drawn from Gaussians of the training images in percent, see `ClassGaussians`. None
    if it is not the criterion."""


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep, which may have been stopped early."""

    run: Path
    """The run folder."""
    folder: Path
    """The folder of sweep.json, sweep.csv, sweep.svg and sweep.png."""
    split: str
    """The evaluated split, which is never used to choose."""
    holdout: Holdout
    method: str | None
    """Method preset of the second stage. None: the second stage of the run."""
    fixed: dict[str, Any]
    """Other changes to the run's settings, common to all entries, by ``rebalance.key``."""
    before: Metrics
    """Accuracies on the evaluated split before rebalancing."""
    holdout_before: float | None
    """Class-balanced accuracy on the holdout images before rebalancing, in percent."""
    criterion: Criterion
    simulated_before: float | None
    """Simulated accuracy before rebalancing, in percent. None if it is not the criterion."""
    entries: list[SweepEntry]
    """The finished combinations, in grid order."""
    planned: int
    """Number of combinations in the grid."""

    @property
    def best(self) -> SweepEntry | None:
        """The entry with the highest holdout accuracy or simulated accuracy, depending on the criterion.

        Ties go to the run's own settings, then to the first in the grid. None if no entry has this accuracy
        or if all have the same.
        """
        rated = self.rated
        if len(rated) > 1 and len({score for _, score in rated}) == 1:
            return None
        best = max(rated, key=lambda pair: (pair[1], pair[0].same_as_run), default=None)
        return best and best[0]

    @property
    def rated(self) -> list[tuple[SweepEntry, float]]:
        """The entries that have the accuracy of the criterion, with this accuracy."""
        return [(entry, score) for entry in self.entries if (score := self._score(entry)) is not None]

    def _score(self, entry: SweepEntry) -> float | None:
        return entry.holdout_accuracy if self.criterion == "holdout" else entry.simulated_accuracy

    @property
    def command(self) -> str | None:
        """The command that rebalances the run with the best settings. None if there is no best entry."""
        if self.best is None:
            return None
        values = {**self.fixed, **self.best.values}
        changes = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
        method = ["--method", self.method] if self.method else []
        return shlex.join(["fasticcl", "rebalance", str(self.run), *method, *changes])

    def write(self) -> None:
        """Write ``sweep.json`` and ``sweep.csv``, each atomically.

        Raises:
            OSError: a file cannot be written.
        """
        write_file(self.folder / "sweep.json", (json.dumps(self.as_dict(), indent=1) + "\n").encode())
        table = io.StringIO()
        keys = [*self.entries[0].values] if self.entries else []
        writer = csv.DictWriter(table, [*keys, *METRICS, "held_back", "simulated", "chosen"])
        writer.writeheader()
        writer.writerows({**entry.values, **self._accuracies(entry)} for entry in self.entries)
        write_file(self.folder / "sweep.csv", table.getvalue().encode())

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``sweep.json``."""
        return {
            "run": str(self.run),
            "split": self.split,
            "holdout": vars(self.holdout),
            "method": self.method,
            "fixed": self.fixed,
            "criterion": self.criterion,
            "before": {
                **self.before,
                "held_back": self.holdout_before,
                "simulated": self.simulated_before,
            },
            "settings": [{"values": entry.values, **self._accuracies(entry)} for entry in self.entries],
            "finished": len(self.entries) == self.planned,
            "best": self.best and self.best.values,
            "command": self.command,
        }

    def _accuracies(self, entry: SweepEntry) -> dict[str, Any]:
        return {
            **entry.metrics,
            "held_back": entry.holdout_accuracy,
            "simulated": entry.simulated_accuracy,
            "chosen": entry is self.best,
        }
