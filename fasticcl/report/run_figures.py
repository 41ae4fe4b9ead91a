"""The figures of a report on one run."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from fasticcl.config import Method
from fasticcl.engine.results import row_titles
from fasticcl.longtail import FEW_BELOW, MANY_ABOVE
from fasticcl.report.class_analysis import ClassAnalysis
from fasticcl.report.plotting import (
    COLORS,
    GROUP_COLORS,
    PERCENT_LIMITS,
    label_spans,
    plot_curve,
    styled_figure,
)
from fasticcl.report.run_history import RunHistory

METRIC_KEYS = {"overall": "val/top1", "many": "val/many", "medium": "val/medium", "few": "val/few"}
"""The metric key of each accuracy, by its label in figures."""
_RUNNING_MEANS = 15  # the window of the running mean is 1/15 of the classes


def run_figures(history: RunHistory, analysis: ClassAnalysis | None) -> Iterator[tuple[str, Figure, str]]:
    """Yield the name, the figure and the caption of each figure of a run.

    Args:
        history: the recorded history of the run.
        analysis: its per-class results. If None, the per-class figures are omitted.
    """
    yield "accuracy", accuracy_curves(history), "Accuracy on the evaluated split after each evaluated epoch."
    yield "losses", loss_curves(history), _losses_caption(history.config.method)
    if analysis:
        yield (
            "per-class",
            per_class_accuracy(analysis),
            "Accuracy of each class against its number of training images. The lines are running means.",
        )
        yield (
            "norms",
            class_norms(analysis),
            "L2 norms per class, from the largest class to the smallest, each curve divided by its mean "
            "(compare Figure 3 of the paper).",
        )
    yield (
        "speed",
        throughput_curves(history),
        "Images per second, and the share of time spent waiting for data.",
    )


def _losses_caption(method: Method) -> str:
    caption = "Training losses, averaged over each epoch."
    if method.first_stage == "m2m":
        caption += " translated is the fraction of the images that were translated."
    if method.class_loss == "cross_entropy":
        return caption
    return f"{caption} In the representation stage, ce is the class loss {method.class_loss}."


def accuracy_curves(history: RunHistory) -> Figure:
    """Plot the accuracy overall and of each class group against the epoch."""
    with styled_figure("Top-1 accuracy", "epoch", "accuracy (%)") as (figure, axes):
        for name, key in METRIC_KEYS.items():
            values = _series(history.epochs, key)
            if np.isfinite(values).any():
                plot_curve(axes, values, color=GROUP_COLORS[name], label=name)
        axes.set_ylim(PERCENT_LIMITS)
        _mark_phases(figure, axes, history)
    return figure


def loss_curves(history: RunHistory) -> Figure:
    """Plot the total loss and its terms against the epoch."""
    keys = dict.fromkeys(key for record in history.epochs for key in record if key.startswith("train/"))
    with styled_figure("Training loss", "epoch", "loss") as (figure, axes):
        for i, key in enumerate(keys):
            color = "#7f7f7f" if key == "train/loss" else COLORS[i % len(COLORS)]
            plot_curve(axes, _series(history.epochs, key), color=color, label=key.removeprefix("train/"))
        axes.set_ylim(bottom=0)
        _mark_phases(figure, axes, history)
    return figure


def per_class_accuracy(analysis: ClassAnalysis) -> Figure:
    """Plot the accuracy of each class against its size, before and after the second stage."""
    sizes, titles = np.array(analysis.train_counts), row_titles(analysis.right)
    with styled_figure("Per-class accuracy", "training images per class", "accuracy (%)") as (figure, axes):
        for i, name in enumerate(name for name in analysis.right if name != "best"):
            values, color = analysis.accuracy(name), COLORS[1 - i]
            axes.scatter(sizes, values, s=14, color=color, alpha=0.45, linewidths=0)
            axes.plot(*_running_mean(sizes, values), color=color, label=titles[name])
        _set_size_axis(axes, sizes)
        axes.set_ylim(PERCENT_LIMITS)
        for border in (FEW_BELOW - 0.5, MANY_ABOVE + 0.5):
            if sizes.min() < border < sizes.max():
                axes.axvline(border, color="#7f7f7f", linewidth=0.8, linestyle=":")
    return figure


def _set_size_axis(axes: Axes, sizes: NDArray[np.integer]) -> None:
    """Make the x-axis logarithmic with plain numbers, and with more ticks if its range is small."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if sizes.max() < 100 * sizes.min() else (1,)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def class_norms(analysis: ClassAnalysis) -> Figure:
    """Plot the norms of classifier weights and centroids, classes ordered by size (the paper's Figure 3)."""
    order = np.argsort(-np.array(analysis.train_counts), kind="stable")
    titles = row_titles(analysis.weight_norms)
    curves = {
        f"classifier, {titles[name]}": values
        for name, values in analysis.weight_norms.items()
        if name != "best"
    }
    if analysis.centroid_norms:
        curves["centroids"] = analysis.centroid_norms
    with styled_figure("Class norms", "class rank by size (1 = largest)", "norm / mean norm") as (
        figure,
        axes,
    ):
        for i, (label, values) in enumerate(curves.items()):
            ordered = np.array(values)[order]
            plot_curve(
                axes, ordered / max(ordered.mean(), 1e-12), color=COLORS[(1, 0, 2)[i % 3]], label=label
            )
        axes.set_ylim(bottom=0)
    return figure


def throughput_curves(history: RunHistory) -> Figure:
    """Plot the throughput and the time spent waiting for data against the epoch."""
    with styled_figure("Throughput", "epoch", "images/s") as (figure, axes):
        rates = _series(history.epochs, "throughput/images_per_sec")
        plot_curve(axes, rates, color=COLORS[0], label="images/s")
        axes.set_ylim(bottom=0)
        wait_axes = axes.twinx()
        wait_axes.spines["right"].set_visible(True)
        wait_axes.grid(False)
        waits = _series(history.epochs, "time/data_wait_pct")
        plot_curve(wait_axes, waits, color=COLORS[1], label="waiting for data")
        wait_axes.set(ylim=PERCENT_LIMITS, ylabel="waiting for data (%)")
        _mark_phases(figure, axes, history)
    return figure


def _series(records: Sequence[dict[str, Any]], key: str) -> NDArray[np.float64]:
    """Return the value of each record, NaN if missing."""
    return np.array([np.nan if record.get(key) is None else record[key] for record in records], dtype=float)


def _mark_phases(figure: Figure, axes: Axes, history: RunHistory) -> None:
    """Label the phases and draw lines between them. Epoch n spans n - 0.5 to n + 0.5."""
    phases = [(name, len([*records])) for name, records in groupby(history.epochs, key=_phase_label)]
    edges = [0.5, *(0.5 + end for end in accumulate(length for _, length in phases))]
    for border in edges[1:-1]:
        axes.axvline(border, color="#7f7f7f", linewidth=0.8, linestyle="--")
    label_spans(figure, axes, [name for name, _ in phases], edges)


def _phase_label(record: dict[str, Any]) -> str:
    return "seed network" if record["stage"] == "seed" else record["phase"]


def _running_mean(
    sizes: NDArray[np.integer], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return class sizes and values, both averaged over windows of classes of similar size."""
    order = np.argsort(sizes, kind="stable")
    order = order[np.isfinite(values[order])]
    width = max(1, len(order) // _RUNNING_MEANS)
    windows = np.lib.stride_tricks.sliding_window_view(np.stack([sizes, values])[:, order], width, axis=1)
    means = windows.mean(axis=2)
    return means[0], means[1]
