"""The figure of a sweep: accuracy against what is swept, as the paper's Figure 4."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fasticcl.report.drawing import COLORS, SPLIT_COLORS, canvas
from fasticcl.report.figures import KEYS
from fasticcl.sweep.outcome import Sweep, Tried

_WIDE = 8  # a range that is this many times its least value is drawn on a logarithmic axis


def draw(sweep: Sweep) -> Figure:
    """Return overall, many, medium and few against the swept key; of several keys, overall against the first.

    With one key the accuracy on the held-back images is there too, in a broken line. A ring marks the
    setting that these chose.
    """
    key, *others = sweep.tried[0].values
    with canvas(f"After rebalancing, on {sweep.split}", key, "top-1, %") as (figure, axes):
        places = _places(axes, [each.values[key] for each in sweep.tried])
        lines = _by_the_others(sweep.tried, others) if others else _by_split(sweep.tried)
        for label, color, line, values in lines:
            drawn = sorted(
                (places[each.values[key]], value) for each, value in zip(line, values, strict=True)
            )
            style = "--" if label == "held back" else "-"
            axes.plot(*zip(*drawn, strict=True), style, marker="o", ms=3, color=color, label=label)
        if sweep.best:
            x, y = places[sweep.best.values[key]], _number(sweep.best.metrics["val/top1"])
            axes.plot(x, y, "o", ms=11, mfc="none", mec="#7f7f7f", mew=1.5, ls="", label="chosen")
    return figure


Line = tuple[str, str, Sequence[Tried], list[float]]
"""Label, colour, settings and the accuracy of each."""


def _by_split(tried: Sequence[Tried]) -> Iterator[Line]:
    for name, metric in KEYS.items():
        if all(each.metrics[metric] is None for each in tried):
            continue  # the split has no class
        yield name, SPLIT_COLORS[name], tried, [_number(each.metrics[metric]) for each in tried]
    if any(each.held_back is not None for each in tried):
        yield "held back", COLORS[3], tried, [_number(each.held_back) for each in tried]


def _by_the_others(tried: Sequence[Tried], others: Sequence[str]) -> Iterator[Line]:
    def of(each: Tried) -> str:
        return ", ".join(f"{name.partition('.')[2]} {each.values[name]}" for name in others)

    # Stable: lines and their settings stay in the order of the grid.
    names = dict.fromkeys(map(of, tried))
    for name, color in zip(names, itertools.cycle(COLORS), strict=False):
        line = [each for each in tried if of(each) == name]
        yield name, color, line, [_number(each.metrics["val/top1"]) for each in line]


def _places(axes: Axes, values: Sequence[Any]) -> dict[Any, float]:
    """Return where each value lies on the horizontal axis, which is told about its scale."""
    numbers = [value for value in values if isinstance(value, int | float)]
    distinct = [*dict.fromkeys(values)]
    if len(numbers) < len(values):
        axes.set_xticks(range(len(distinct)), [str(value) for value in distinct])
        return {value: float(place) for place, value in enumerate(distinct)}
    if 0 < min(numbers) * _WIDE <= max(numbers):
        axes.set_xscale("log")
    axes.set_xticks(sorted(distinct), [f"{value:g}" for value in sorted(distinct)])
    axes.set_xticks([], minor=True)
    return {value: float(value) for value in distinct}


def _number(value: float | None) -> float:
    return math.nan if value is None else value
