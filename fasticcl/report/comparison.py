"""The sections and figures of the page that compares several runs."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from fasticcl.config.method_summary import method_summary
from fasticcl.engine.evaluate import METRICS
from fasticcl.report.page import Cell, Column, PageFigure, PageSection, Table, count_cell, percent_cell
from fasticcl.report.plotting import COLORS, PERCENT_LIMITS, plot_curve, styled_figure
from fasticcl.report.run_figures import METRIC_KEYS
from fasticcl.report.run_groups import RunGroup
from fasticcl.report.run_sections import ACCURACY_COLUMNS


def comparison_sections(groups: Sequence[RunGroup], figures: Sequence[PageFigure]) -> Iterator[PageSection]:
    """Yield the sections that compare groups of runs."""
    rows = [
        [Cell(group.label), count_cell(group.num_seeds), *(_mean_cell(group, key) for key in METRICS)]
        for group in groups
    ]
    columns = [Column("configuration"), Column("seeds", number=True), *ACCURACY_COLUMNS]
    note = (
        "Accuracy at the last epoch, as mean and sample standard deviation (n - 1) over the seeds of each "
        "configuration."
    )
    subsets = dict.fromkeys(run.subset_note for group in groups for run in group.runs if run.subset_note)
    note = " ".join([note, *subsets])
    table = Table(columns, rows, "Top-1 accuracy (%)", sortable=True)
    yield PageSection("Comparison", note, [table, *_parts_table(groups)], figures)
    rows = [
        [
            Cell(run.title),
            Cell(group.label),
            count_cell(run.config.engine.seed),
            *(percent_cell(run.final_accuracies[key]) for key in METRICS),
        ]
        for group in groups
        for run in group.runs
    ]
    columns = [Column("run"), Column("configuration"), Column("seed", number=True), *ACCURACY_COLUMNS]
    yield PageSection("Individual runs", tables=[Table(columns, rows, "Top-1 accuracy (%)", sortable=True)])


def _parts_table(groups: Sequence[RunGroup]) -> Iterator[Table]:
    """Yield a table of the parts of each configuration, unless all consist of parts of ICCL."""
    parts = [method_summary(group.runs[0].effective_config) for group in groups]
    if any(parts):
        rows = [
            [Cell(group.label), Cell("; ".join(each) or "–")]
            for group, each in zip(groups, parts, strict=True)
        ]
        columns = [Column("configuration"), Column("parts of the method")]
        yield Table(columns, rows, "Losses, classifiers, samplers and second stages that ICCL does not have")


def _mean_cell(group: RunGroup, key: str) -> Cell:
    mean_and_std = group.mean_and_std(key)
    if mean_and_std is None:
        return percent_cell(None)
    mean, std = mean_and_std
    return percent_cell(mean, f"{mean:.1f}" if std is None else f"{mean:.1f} ±\N{NO-BREAK SPACE}{std:.1f}")


def comparison_figures(groups: Sequence[RunGroup]) -> Iterator[tuple[str, Figure, str]]:
    """Yield the name, the figure and the caption of each figure of a comparison."""
    for name, key in METRIC_KEYS.items():
        title = f"Top-1 accuracy, {name}"
        yield (
            name,
            metric_curves(groups, key, title),
            "One curve per run. The legend gives the number of runs.",
        )


def metric_curves(groups: Sequence[RunGroup], key: str, title: str) -> Figure:
    """Plot a metric of all runs against the epoch, with one colour per group, without seed stages."""
    with styled_figure(title, "epoch", "accuracy (%)") as (figure, axes):
        for i, group in enumerate(groups):
            for j, run in enumerate(group.runs):
                epochs = [record for record in run.epochs if record["stage"] != "seed"]
                plot_curve(
                    axes,
                    [np.nan if record[key] is None else record[key] for record in epochs],
                    color=COLORS[i % len(COLORS)],
                    alpha=0.75,
                    linewidth=1.1,
                    label=f"{group.label} ({len(group.runs)})" if j == 0 else None,
                )
        axes.set_ylim(PERCENT_LIMITS)
    return figure
