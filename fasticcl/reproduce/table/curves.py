"""The metrics of a table plotted over a setting, as in Figure 4 of the paper."""

import math
from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure

from fasticcl.paper.table import PaperColumn
from fasticcl.report.plotting import COLORS, GROUP_COLORS, styled_figure
from fasticcl.reproduce.result import CellResult, TableResult

_LOG_RATIO = 8  # a range of values with at least this ratio gets a logarithmic axis
_SYMBOLS = {"rebalance.distillation_temperature": "τ$_d$"}


def curves(result: TableResult) -> Iterator[tuple[str, Figure, str]]:
    """Yield the name, the figure and the caption of each column that has a finished run."""
    for column in result.columns:
        cells = [
            cell
            for row in result.rows
            if (cell := result.cells.get((row.name, column.name))) and cell.finished
        ]
        if cells:
            yield (
                f"{result.table.name}-{column.name}",
                _figure(result, column, cells),
                _caption(column, cells),
            )


def _caption(column: PaperColumn, cells: list[CellResult]) -> str:
    """Return the caption, which explains only the marks that the figure contains."""
    caption = f"{column.title}: accuracy at the last epoch."
    if any(metric.last.std is not None for cell in cells for metric in cell.metrics):
        caption += " Bars: standard deviation over the seeds."
    if _has_published(cells):
        caption += " Open squares: figures published in the paper."
    return caption


def _has_published(cells: list[CellResult]) -> bool:
    return any(metric.paper is not None for cell in cells for metric in cell.metrics)


def _figure(result: TableResult, column: PaperColumn, cells: list[CellResult]) -> Figure:
    x = np.array([_value(result, cell) for cell in cells])
    label = _SYMBOLS.get(result.table.x, result.table.x)
    with styled_figure(f"Accuracy on {column.title}", label, "accuracy (%)") as (figure, axes):
        for i, metric in enumerate(column.metrics):
            name, color = column.titles[i], GROUP_COLORS.get(metric, COLORS[3])
            results = [cell.metrics[i] for cell in cells]
            means = np.array([_number(each.last.mean) for each in results])
            if np.isfinite(means).any():
                order = np.argsort(x)
                bars = np.array([each.last.std or 0.0 for each in results])
                axes.plot(x[order], means[order], color=color, marker="o", ms=4, label=name)
                axes.errorbar(x, means, bars, color=color, capsize=2, ls="")
            published = np.array([_number(each.paper) for each in results])
            axes.plot(x, published, "s", mfc="none", mec=color, ms=8, label=None)
        if _has_published(cells):
            axes.plot([], [], "s", mfc="none", mec="#7f7f7f", ms=8, label="paper")
        if x.min() > 0 and x.max() / x.min() >= _LOG_RATIO:
            axes.set_xscale("log")
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.set_xticks([], minor=True)
    return figure


def _value(result: TableResult, cell: CellResult) -> float:
    section, _, key = result.table.x.partition(".")
    return float(getattr(getattr(cell.config, section), key))


def _number(value: float | None) -> float:
    return math.nan if value is None else value
