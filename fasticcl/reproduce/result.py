"""The result of a reproduction: the cells of the table with their runs, means and published figures."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

from fasticcl.config import Config
from fasticcl.paper.protocol import protocol_differences
from fasticcl.paper.table import Metric, PaperColumn, PaperRow, PaperTable, paper_table_names
from fasticcl.reproduce.plan import Cell, Plan
from fasticcl.reproduce.table.data_facts import DataFacts
from fasticcl.reproduce.table.run_result import RunResult, run_result

Epoch = Literal["last", "best"]
Part = TypeVar("Part", PaperRow, PaperColumn)


@dataclass(frozen=True)
class SeedStatistic:
    """An accuracy of the runs of a cell that are finished, in percent."""

    values: Mapping[int, float]
    """By seed."""

    @property
    def mean(self) -> float | None:
        """The mean over the seeds. None: there is no run."""
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def std(self) -> float | None:
        """The sample standard deviation (n - 1) over the seeds. None: there are fewer than two."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None


@dataclass(frozen=True)
class MetricResult:
    """One metric of a cell."""

    metric: Metric
    paper: float | None
    """The published figure in percent."""
    last: SeedStatistic
    """The accuracies at the last epoch."""
    best: SeedStatistic
    """The accuracies at the best epoch, which was chosen on the evaluated images."""

    def at(self, epoch: Epoch) -> SeedStatistic:
        """Return the accuracies at the last or at the best epoch."""
        return self.last if epoch == "last" else self.best

    def difference(self, epoch: Epoch) -> float | None:
        """Return the mean minus the published figure, or None if one of them is missing."""
        mean = self.at(epoch).mean
        return None if mean is None or self.paper is None else mean - self.paper


@dataclass(frozen=True)
class CellResult:
    """One row and column of a table."""

    row: PaperRow
    column: PaperColumn
    metrics: tuple[MetricResult, ...]
    """In the order of the column."""
    runs: tuple[RunResult, ...]
    """One for each planned seed, in the order of the seeds."""
    config: Config
    """The configuration of the first seed."""
    differences: tuple[str, ...]
    """Differences from the protocol of the paper, such as ``60 epochs (paper: 200)``."""
    data: DataFacts | None
    """None: the shards are missing."""

    @property
    def finished(self) -> int:
        """Number of finished runs."""
        return sum(run.state == "finished" for run in self.runs)


@dataclass(frozen=True)
class TableResult:
    """A table or figure of the paper with the results of this project."""

    table: PaperTable
    rows: tuple[PaperRow, ...]
    """The computed rows, in the order of the paper."""
    columns: tuple[PaperColumn, ...]
    """The computed columns, in the order of the paper."""
    cells: Mapping[tuple[str, str], CellResult]
    """By the names of row and column. Cells that cannot be computed are missing."""
    problems: tuple[str, ...] = ()
    """Cells that cannot be computed, with the reason."""
    notes: tuple[str, ...] = ()
    """Remarks on the settings of the runs."""
    on_other_data: bool = False
    """True if the columns are not those of the paper but another dataset."""
    command: str = ""
    """The command that made the result."""
    common: tuple[str, ...] = field(init=False)
    """The differences from the protocol of the paper that all compared cells have."""

    def __post_init__(self) -> None:
        each = [cell.differences for cell in self.compared]
        common = tuple(text for text in (each[0] if each else ()) if all(text in other for other in each))
        object.__setattr__(self, "common", common)

    @property
    def compared(self) -> list[CellResult]:
        """The cells with a finished run, or all cells if there are none, in the order of the paper."""
        keys = [(row.name, column.name) for row in self.rows for column in self.columns]
        cells = [self.cells[key] for key in keys if key in self.cells]
        return [cell for cell in cells if cell.finished] or cells

    @property
    def runs(self) -> dict[Path, RunResult]:
        """The different runs by folder. Cells may share them."""
        return {run.folder: run for cell in self.cells.values() for run in cell.runs}

    @property
    def has_published(self) -> bool:
        """True if the paper has a figure for any cell."""
        return any(metric.paper is not None for cell in self.cells.values() for metric in cell.metrics)

    def own_differences(self, cell: CellResult) -> list[str]:
        """Return the differences from the protocol that a cell has and others do not have."""
        return [text for text in cell.differences if text not in self.common]


def table_result(
    plan: Plan,
    table: PaperTable,
    *,
    differences: Callable[[Config, Config, str | None], Sequence[str]] = protocol_differences,
    command: str = "",
    failures: Mapping[Path, str] | None = None,
) -> TableResult:
    """Return the result of a table, read from the folders of the runs.

    Args:
        plan: the cells and their runs. Runs that do not exist are shown as missing.
        table: the table of the paper.
        differences: returns the differences of a configuration from the published one in words. Its third
            argument is the choice of the training images in words, or None for the published one.
        command: the command that made the result.
        failures: errors of failed runs by folder.
    """
    seeds: dict[tuple[str, str], list[tuple[Cell, Path]]] = {}
    for job in plan.jobs:
        for cell in job.cells:
            seeds.setdefault((cell.row.name, cell.column.name), []).append((cell, job.folder))
    other_data = _is_on_other_data(plan, table.name)
    read_facts = cache(DataFacts.read)
    results = {}
    for key, members in seeds.items():
        members.sort(key=lambda member: member[0].seed)
        first = members[0][0]
        data = read_facts(first.config.data)
        runs = tuple(
            run_result(folder, cell.seed, cell.row.result, data, (failures or {}).get(folder, ""))
            for cell, folder in members
        )
        subset = (data.subset or data.subset_note) if data and not other_data else None
        protocol = differences(first.config, first.published, subset)
        if other_data:  # the other values are those of the preset of the dataset
            protocol = [text.replace("(paper:", "(preset:") for text in protocol]
        metrics = _metric_results(first.row, first.column, runs)
        results[key] = CellResult(first.row, first.column, metrics, runs, first.config, tuple(protocol), data)
    return TableResult(
        table=table,
        rows=_in_order(table.rows, (cell.row for cell in plan.cells)),
        columns=_in_order(table.columns, (cell.column for cell in plan.cells)),
        cells=results,
        problems=tuple(plan.problems),
        notes=tuple(plan.notes),
        on_other_data=other_data,
        command=command,
    )


def _is_on_other_data(plan: Plan, name: str) -> bool:
    if name not in paper_table_names():
        return False
    known = {column.name for column in PaperTable.read(name).columns}
    return known.isdisjoint(cell.column.name for cell in plan.cells)


def _metric_results(
    row: PaperRow, column: PaperColumn, runs: Sequence[RunResult]
) -> tuple[MetricResult, ...]:
    published = row.paper.get(column.name) or (None,) * len(column.metrics)
    return tuple(
        MetricResult(metric, paper, *(_statistic(runs, metric, epoch) for epoch in ("last", "best")))
        for metric, paper in zip(column.metrics, published, strict=True)
    )


def _statistic(runs: Sequence[RunResult], metric: Metric, epoch: Epoch) -> SeedStatistic:
    accuracies = {run.seed: run.last if epoch == "last" else run.best for run in runs}
    values = {seed: each.values[metric] for seed, each in accuracies.items() if each}
    return SeedStatistic({seed: value for seed, value in values.items() if value is not None})


def _in_order(printed: Sequence[Part], used: Iterable[Part]) -> tuple[Part, ...]:
    """Return the different parts that are used, those of the paper first and in its order."""
    parts = {part.name: part for part in used}
    order = [part.name for part in printed if part.name in parts]
    return tuple(parts[name] for name in [*order, *(name for name in parts if name not in order)])
