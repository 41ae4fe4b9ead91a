"""The figures of one run."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from fasticcl.engine.results import TITLES
from fasticcl.longtail import FEW_BELOW, MANY_ABOVE
from fasticcl.report.class_analysis import Details
from fasticcl.report.drawing import COLORS, PERCENT, SPLIT_COLORS, canvas, curve, name_spans
from fasticcl.report.run_record import RunRecord

KEYS = {"overall": "val/top1", "many": "val/many", "medium": "val/medium", "few": "val/few"}
_WINDOW = 15  # the running mean of per-class values is over a fifteenth of the classes


def run_figures(record: RunRecord, details: Details | None) -> Iterator[tuple[str, Figure, str]]:
    """Yield name, figure and caption of each figure of a run.

    Args:
        record: what its files say.
        details: what its weights say; None: they or the shards are not there.
    """
    yield "accuracy", accuracy_curves(record), "Accuracy on the evaluated split after every epoch."
    yield "losses", loss_curves(record), "Training losses, the mean of each epoch."
    if details:
        yield (
            "per-class",
            per_class(details),
            "Accuracy of each class against its training images; lines are running means.",
        )
        yield (
            "norms",
            norms(details),
            "Norms per class, largest class first, each over its own mean (as the paper's Figure 3).",
        )
    yield (
        "speed",
        speed(record),
        "Images per second, and the share of the time spent waiting for them.",
    )


def accuracy_curves(record: RunRecord) -> Figure:
    """Overall, many, medium and few against the epoch, the phases marked."""
    with canvas("Top-1 accuracy", "epoch", "%") as (figure, axes):
        for name, key in KEYS.items():
            values = _column(record.epochs, key)
            if np.isfinite(values).any():
                curve(axes, values, color=SPLIT_COLORS[name], label=name)
        axes.set_ylim(PERCENT)
        _mark_phases(figure, axes, record)
    return figure


def loss_curves(record: RunRecord) -> Figure:
    """The total loss and its parts against the epoch."""
    names = dict.fromkeys(key for each in record.epochs for key in each if key.startswith("train/"))
    with canvas("Training loss", "epoch", "loss") as (figure, axes):
        for number, key in enumerate(names):
            curve(
                axes,
                _column(record.epochs, key),
                color="#7f7f7f" if key == "train/loss" else COLORS[number % len(COLORS)],
                label=key.removeprefix("train/"),
            )
        axes.set_ylim(bottom=0)
        _mark_phases(figure, axes, record)
    return figure


def per_class(details: Details) -> Figure:
    """Accuracy of each class against its size, before and after rebalancing."""
    sizes = np.array(details.train_counts)
    with canvas("Accuracy of each class", "training images of the class", "%") as (figure, axes):
        for number, name in enumerate(name for name in details.right if name != "best"):
            values, color = details.accuracy(name), COLORS[1 - number]
            axes.scatter(sizes, values, s=14, color=color, alpha=0.45, linewidths=0)
            axes.plot(*_running_mean(sizes, values), color=color, label=TITLES[name])
        _size_axis(axes, sizes)
        axes.set_ylim(PERCENT)
        for border in (FEW_BELOW - 0.5, MANY_ABOVE + 0.5):
            if sizes.min() < border < sizes.max():
                axes.axvline(border, color="#7f7f7f", linewidth=0.8, linestyle=":")
    return figure


def _size_axis(axes: Axes, sizes: NDArray[np.integer]) -> None:
    """Make the axis logarithmic, with plain numbers on it, more of them where it is short."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if sizes.max() < 100 * sizes.min() else (1,)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def norms(details: Details) -> Figure:
    """The paper's Figure 3: norms of classifier weights and of centroids, classes ordered by size."""
    order = np.argsort(-np.array(details.train_counts), kind="stable")
    lines = {
        f"classifier, {TITLES[name]}": values
        for name, values in details.weight_norms.items()
        if name != "best"
    }
    if details.centroid_norms:
        lines["centroids"] = details.centroid_norms
    with canvas("Norms", "rank of the class, the largest first", "norm / mean norm") as (figure, axes):
        for number, (label, values) in enumerate(lines.items()):
            sorted_values = np.array(values)[order]
            color = COLORS[(1, 0, 2)[number % 3]]
            curve(axes, sorted_values / max(sorted_values.mean(), 1e-12), color=color, label=label)
        axes.set_ylim(bottom=0)
    return figure


def speed(record: RunRecord) -> Figure:
    """Throughput and data wait against the epoch."""
    with canvas("Throughput", "epoch", "images/s") as (figure, axes):
        curve(axes, _column(record.epochs, "throughput/images_per_sec"), color=COLORS[0], label="images/s")
        axes.set_ylim(bottom=0)
        wait = axes.twinx()
        wait.spines["right"].set_visible(True)
        wait.grid(False)
        curve(wait, _column(record.epochs, "time/data_wait_pct"), color=COLORS[1], label="waiting for data")
        wait.set(ylim=PERCENT, ylabel="waiting for data, %")
        _mark_phases(figure, axes, record)
    return figure


def _column(records: Sequence[dict[str, Any]], key: str) -> NDArray[np.float64]:
    """Return one value per record, not a number where there is none."""
    return np.array([np.nan if record.get(key) is None else record[key] for record in records], dtype=float)


def _mark_phases(figure: Figure, axes: Axes, record: RunRecord) -> None:
    """Draw a line where a phase begins, and name them all; epoch n reaches from n - 0.5 to n + 0.5."""
    spans = [(phase, len([*each])) for phase, each in groupby(record.epochs, key=itemgetter("phase"))]
    ends = [0.5, *(0.5 + last for last in accumulate(length for _, length in spans))]
    for border in ends[1:-1]:
        axes.axvline(border, color="#7f7f7f", linewidth=0.8, linestyle="--")
    name_spans(figure, axes, [phase for phase, _ in spans], ends)


def _running_mean(
    sizes: NDArray[np.integer], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sizes and values averaged over neighbours in size."""
    order = np.argsort(sizes, kind="stable")
    order = order[np.isfinite(values[order])]
    width = max(1, len(order) // _WINDOW)
    windows = np.lib.stride_tricks.sliding_window_view(np.stack([sizes, values])[:, order], width, axis=1)
    means = windows.mean(axis=2)
    return means[0], means[1]
