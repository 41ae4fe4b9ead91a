"""The figures of one run."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fasticcl.data.longtail import FEW_BELOW, MANY_ABOVE
from fasticcl.engine.results import TITLES
from fasticcl.reporting.details import Details
from fasticcl.reporting.drawing import COLORS, SPLIT_COLORS, canvas
from fasticcl.reporting.record import RunRecord

KEYS = {"overall": "val/top1", "many": "val/many", "medium": "val/medium", "few": "val/few"}
_LETTER = 0.014  # of the width of the axes, in the names of the phases
_DOTTED = 30  # epochs
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
            _plot(axes, record, key, color=SPLIT_COLORS[name], label=name)
        axes.set_ylim(0, 100)
        _mark_phases(axes, record)
    return figure


def loss_curves(record: RunRecord) -> Figure:
    """The total loss and its parts against the epoch."""
    names = dict.fromkeys(key for each in record.epochs for key in each if key.startswith("train/"))
    with canvas("Training loss", "epoch", "loss") as (figure, axes):
        for number, key in enumerate(names):
            color = "#7f7f7f" if key == "train/loss" else COLORS[number % len(COLORS)]
            _plot(axes, record, key, color=color, label=key.removeprefix("train/"))
        axes.set_ylim(bottom=0)
        _mark_phases(axes, record)
    return figure


def per_class(details: Details) -> Figure:
    """Accuracy of each class against its size, before and after rebalancing."""
    sizes = np.array(details.train_counts)
    with canvas("Accuracy of each class", "training images of the class", "%") as (figure, axes):
        for number, name in enumerate(name for name in details.right if name != "best"):
            values, color = details.accuracy(name), COLORS[1 - number]
            axes.scatter(sizes, values, s=14, color=color, alpha=0.45, linewidths=0)
            axes.plot(*_running_mean(sizes, values), color=color, label=TITLES[name])
        axes.set_xscale("log")
        axes.set_ylim(-3, 103)
        for border in (FEW_BELOW - 0.5, MANY_ABOVE + 0.5):
            if sizes.min() < border < sizes.max():
                axes.axvline(border, color="#7f7f7f", linewidth=0.8, linestyle=":")
    return figure


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
    with canvas("Norms", "class, largest first", "norm / mean norm") as (figure, axes):
        for number, (label, values) in enumerate(lines.items()):
            sorted_values = np.array(values)[order]
            color = COLORS[(1, 0, 2)[number % 3]]
            axes.plot(sorted_values / max(sorted_values.mean(), 1e-12), color=color, label=label)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def speed(record: RunRecord) -> Figure:
    """Throughput and data wait against the epoch."""
    with canvas("Throughput", "epoch", "images/s") as (figure, axes):
        _plot(axes, record, "throughput/images_per_sec", color=COLORS[0], label="images/s")
        axes.set_ylim(bottom=0)
        wait = axes.twinx()
        wait.spines["right"].set_visible(True)
        wait.grid(False)
        _plot(wait, record, "time/data_wait_pct", color=COLORS[1], label="waiting for data")
        wait.set(ylim=(0, 100), ylabel="waiting for data, %")
        _mark_phases(axes, record)
    return figure


def _plot(axes: Axes, record: RunRecord, key: str, **how: Any) -> None:
    """Draw a quantity against the epoch, if any has it; with dots where a phase may be one epoch."""
    values = [math.nan if each.get(key) is None else each[key] for each in record.epochs]
    epochs = range(1, len(values) + 1)
    if not all(map(math.isnan, values)):
        axes.plot(epochs, values, marker="." if len(epochs) < _DOTTED else "", **how)


def _mark_phases(axes: Axes, record: RunRecord) -> None:
    """Draw a line and a name where a phase begins; a name without room stands above the one before."""
    phase, ends = "", [0.0]
    letter = _LETTER * len(record.epochs)
    for epoch, each in enumerate(record.epochs, start=1):
        if each["phase"] == phase:
            continue
        phase = each["phase"]
        if epoch > 1:
            axes.axvline(epoch - 0.5, color="#7f7f7f", linewidth=0.8, linestyle="--")
        line = next((line for line, end in enumerate(ends) if end < epoch), len(ends))
        ends[line:] = [epoch + letter * (len(phase) + 1), *ends[line + 1 :]]
        axes.annotate(
            phase,
            (epoch - 0.3, 1.0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 9 * line),
            textcoords="offset points",
            fontsize=8,
            va="bottom",
            alpha=0.8,
        )
    axes.set_title(axes.get_title(loc="left"), loc="left", pad=9 + 9 * len(ends))
    axes.set_xlim(0.5, len(record.epochs) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


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
