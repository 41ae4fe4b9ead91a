"""The figure of a sweep: accuracy against a swept setting, as in Figure 4 of the paper."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fasticcl.report.plotting import COLORS, GROUP_COLORS, styled_figure
from fasticcl.report.run_figures import METRIC_KEYS
from fasticcl.sweep.result import SweepEntry, SweepResult

_LOG_RATIO = 8  # a value range with at least this ratio gets a logarithmic axis


def sweep_figure(sweep: SweepResult) -> Figure:
    """Plot accuracy against the first swept setting, and circle the chosen entry.

    With one setting, the curves are the accuracies overall, of the class groups and, dashed, on the holdout
    images and on drawn features. With several settings, there is one curve of the overall accuracy per
    combination of the others.
    """
    key, *other_keys = sweep.entries[0].values
    title = f"Accuracy after the second stage ({sweep.split} split)"
    with styled_figure(title, key, "top-1 accuracy (%)") as (figure, axes):
        positions = _set_axis(axes, [entry.values[key] for entry in sweep.entries])
        curves = (
            _curves_by_setting(sweep.entries, other_keys) if other_keys else _curves_by_group(sweep.entries)
        )
        for label, color, entries, values in curves:
            points = sorted(
                (positions[entry.values[key]], value) for entry, value in zip(entries, values, strict=True)
            )
            style = "--" if label in ("holdout", "simulated") else "-"
            axes.plot(*zip(*points, strict=True), style, marker="o", ms=3, color=color, label=label)
        if sweep.best:
            x, y = positions[sweep.best.values[key]], _nan_if_none(sweep.best.metrics["val/top1"])
            axes.plot(x, y, "o", ms=11, mfc="none", mec="#7f7f7f", mew=1.5, ls="", label="chosen")
    return figure


Curve = tuple[str, str, Sequence[SweepEntry], list[float]]
"""Label, colour, entries, and the accuracy of each entry."""


def _curves_by_group(entries: Sequence[SweepEntry]) -> Iterator[Curve]:
    for name, key in METRIC_KEYS.items():
        if all(entry.metrics[key] is None for entry in entries):
            continue  # the dataset has no class in this group
        yield name, GROUP_COLORS[name], entries, [_nan_if_none(entry.metrics[key]) for entry in entries]
    if any(entry.holdout_accuracy is not None for entry in entries):
        yield "holdout", COLORS[3], entries, [_nan_if_none(entry.holdout_accuracy) for entry in entries]
    if any(entry.simulated_accuracy is not None for entry in entries):
        yield "simulated", COLORS[4], entries, [_nan_if_none(entry.simulated_accuracy) for entry in entries]


def _curves_by_setting(entries: Sequence[SweepEntry], keys: Sequence[str]) -> Iterator[Curve]:
    curves: dict[str, list[SweepEntry]] = {}
    for entry in entries:
        label = ", ".join(f"{key.partition('.')[2]} {entry.values[key]}" for key in keys)
        curves.setdefault(label, []).append(entry)
    for (label, members), color in zip(curves.items(), itertools.cycle(COLORS), strict=False):
        yield label, color, members, [_nan_if_none(entry.metrics["val/top1"]) for entry in members]


def _set_axis(axes: Axes, values: Sequence[Any]) -> dict[Any, float]:
    """Set the scale and the ticks of the x-axis, and return the position of each value on it."""
    numbers = [value for value in values if isinstance(value, int | float)]
    distinct = [*dict.fromkeys(values)]
    if len(numbers) < len(values):
        axes.set_xticks(range(len(distinct)), [str(value) for value in distinct])
        return {value: float(position) for position, value in enumerate(distinct)}
    if 0 < min(numbers) * _LOG_RATIO <= max(numbers):
        axes.set_xscale("log")
    axes.set_xticks(sorted(distinct), [f"{value:g}" for value in sorted(distinct)])
    axes.set_xticks([], minor=True)
    return {value: float(value) for value in distinct}


def _nan_if_none(value: float | None) -> float:
    return math.nan if value is None else value
