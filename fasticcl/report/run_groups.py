"""Groups of runs with equal settings, usually repetitions with several seeds."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fasticcl.report.run_history import RunHistory

_NAMES = ("data.dataset", "method.name")
_BUDGET = ("data.shards", "method.encoder", "optim.recipe", "optim.epochs", "optim.batch_size")


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ only in seed and name."""

    label: str
    """The settings that distinguish this group from the others."""
    runs: list[RunHistory]

    @property
    def num_seeds(self) -> int:
        """Number of distinct seeds."""
        return len({run.config.engine.seed for run in self.runs})

    def mean_and_std(self, key: str) -> tuple[float, float | None] | None:
        """Return the mean and the sample standard deviation (n - 1) of a last-epoch metric over the seeds.

        Runs with the same seed are not independent, so they count once, with their mean. The standard
        deviation is None for a single seed. The result is None if no run has the metric.
        """
        by_seed: dict[int, list[float]] = {}
        for run in self.runs:
            if (value := run.final_accuracies[key]) is not None:
                by_seed.setdefault(run.config.engine.seed, []).append(value)
        means = [np.mean(values) for values in by_seed.values()]
        if not means:
            return None
        return float(np.mean(means)), float(np.std(means, ddof=1)) if len(means) > 1 else None


def group_runs(histories: Iterable[RunHistory]) -> list[RunGroup]:
    """Return the runs grouped by their settings, with a label that distinguishes each group."""
    members: dict[str, list[RunHistory]] = {}
    for history in histories:
        members.setdefault(json.dumps(history.settings, sort_keys=True), []).append(history)
    groups = [*members.values()]
    labels = _labels([runs[0].settings for runs in groups])
    return [RunGroup(label, runs) for label, runs in zip(labels, groups, strict=True)]


def _labels(settings: list[dict[str, Any]]) -> list[str]:
    """Return a label for each group from the settings that differ between groups.

    Labels contain the dataset, the method and the training budget if these differ. Other settings are added
    only to distinguish groups with equal labels, because the name of a method already implies many settings.
    """
    main_keys = [*_differing(settings, _NAMES), *_differing(settings, _BUDGET)]
    main_labels = [
        ", ".join(str(values[key]) if key in _NAMES else _describe(values, key) for key in main_keys)
        for values in settings
    ]
    labels = []
    for main_label, values in zip(main_labels, settings, strict=True):
        peers = [other for label, other in zip(main_labels, settings, strict=True) if label == main_label]
        details = [_describe(values, key) for key in _differing(peers, values)]
        labels.append(", ".join([main_label] * bool(main_label) + details) or str(values["method.name"]))
    return labels


def _describe(values: dict[str, Any], key: str) -> str:
    return f"{key.partition('.')[2]} {values[key]}"


def _differing(settings: list[dict[str, Any]], keys: Iterable[str]) -> list[str]:
    return [key for key in keys if len({json.dumps(values.get(key)) for values in settings}) > 1]
