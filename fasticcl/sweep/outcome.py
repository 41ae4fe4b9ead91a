"""What a sweep found, and the files that keep it."""

import csv
import io
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasticcl.engine.evaluate import METRICS, Metrics
from fasticcl.files import write_file


@dataclass(frozen=True)
class Holdout:
    """The training images that settings are chosen on."""

    holdout: float
    """A share of each class, or images per class; 0: none."""
    images: int
    classes: int
    """Classes that have one among them."""
    seen: bool
    """Whether the representation stage has trained on them: then their accuracy is too high."""


@dataclass(frozen=True)
class Tried:
    """One setting and what it led to."""

    values: dict[str, Any]
    """By ``rebalance.key``, of the keys that are swept."""
    own: bool
    """Whether the whole stage is the run's own."""
    metrics: Metrics
    """On the evaluated split, at the last epoch; all None where the weights are no longer finite."""
    held_back: float | None
    """Mean of the classes' accuracies on the held-back images, in percent; None: there are none."""


@dataclass(frozen=True)
class Sweep:
    """A sweep, finished or stopped before its end."""

    run: Path
    folder: Path
    """Where its files are: sweep.json, sweep.csv, sweep.svg and sweep.png."""
    split: str
    """The split that is reported, on which nothing is chosen."""
    holdout: Holdout
    fixed: dict[str, Any]
    """What else differs from the run, by ``rebalance.key``, for all settings alike."""
    before: Metrics
    """Before rebalancing, on the evaluated split."""
    before_held_back: float | None
    tried: list[Tried]
    planned: int
    """How many settings there are in the grid."""

    @property
    def best(self) -> Tried | None:
        """The setting with the highest accuracy on the held-back images.

        Of equals the run's own, else the first of the grid. None: nothing was held back, or all are equal.
        """
        judged = [each for each in self.tried if each.held_back is not None]
        if len(judged) > 1 and len({each.held_back for each in judged}) == 1:
            return None
        return max(judged, key=lambda each: (each.held_back, each.own), default=None)

    @property
    def command(self) -> str | None:
        """What makes a run of the best setting."""
        if self.best is None:
            return None
        values = {**self.fixed, **self.best.values}
        changes = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
        return shlex.join(["fasticcl", "rebalance", str(self.run), *changes])

    def write(self) -> None:
        """Write ``sweep.json`` and ``sweep.csv``, each whole or not at all.

        Raises:
            OSError: they cannot be written.
        """
        write_file(self.folder / "sweep.json", (json.dumps(self.as_dict(), indent=1) + "\n").encode())
        table = io.StringIO()
        keys = [*self.tried[0].values] if self.tried else []
        writer = csv.DictWriter(table, [*keys, *METRICS, "held_back", "chosen"])
        writer.writeheader()
        for each in self.tried:
            writer.writerow(
                {**each.values, **each.metrics, "held_back": each.held_back, "chosen": each is self.best}
            )
        write_file(self.folder / "sweep.csv", table.getvalue().encode())

    def as_dict(self) -> dict[str, Any]:
        """Return all of it in plain values."""
        settings = [
            {"values": each.values, **each.metrics, "held_back": each.held_back, "chosen": each is self.best}
            for each in self.tried
        ]
        return {
            "run": str(self.run),
            "split": self.split,
            "holdout": vars(self.holdout),
            "fixed": self.fixed,
            "before": {**self.before, "held_back": self.before_held_back},
            "settings": settings,
            "finished": len(self.tried) == self.planned,
            "best": self.best and self.best.values,
            "command": self.command,
        }
