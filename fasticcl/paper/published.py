"""The figures of the paper for the setting of a run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from fasticcl.config import Config
from fasticcl.paper.protocol import protocol_differences
from fasticcl.paper.table import Metric, PaperColumn, PaperRow, PaperTable
from fasticcl.resolve import first_stage_differences

_TABLES = ("table1", "table2", "table3", "table7", "table4", "table5", "table6", "table8")
"""Tables with figures, the comparisons with other methods before the ablations."""
_NAMED = 6
"""Number of differences that a sentence names."""


@dataclass(frozen=True)
class PublishedResult:
    """The figures of a row of the paper, for the dataset, the method and the settings of a run."""

    table: str
    """Table in words, for example ``Table 1``."""
    row: str
    """Title of the row."""
    note: str
    """Source of the figures or a difference that the paper states. May be empty."""
    figures: Mapping[Metric, float]
    """Top-1 accuracy in percent by group of classes, as far as it was published."""
    differences: Sequence[str]
    """Differences from the paper's settings, see `protocol_differences`."""

    @property
    def title(self) -> str:
        """The source in short, for example ``paper, Table 1``."""
        return f"paper, {self.table}"

    @property
    def summary(self) -> str:
        """Table, figures and the number of differences in one line."""
        figures = ", ".join(f"{metric} {figure:.1f}" for metric, figure in self.figures.items())
        count = len(self.differences)
        changes = f"; this run differs in {count} setting{'s' * (count > 1)}" if count else ""
        return f"{self.table}: {figures} %{changes}"

    @property
    def source_note(self) -> str:
        """A sentence on the row of the paper and the source of its figures."""
        source = f": {self.note}" if self.note else ""
        return f"{self.table} of the paper has this setting in the row “{self.row}”{source}."

    @property
    def protocol_note(self) -> str:
        """A sentence on the differences in training, or an empty string if there are none."""
        if not self.differences:
            return ""
        named, others = self.differences[:_NAMED], len(self.differences) - _NAMED
        suffix = f", and {others} more setting{'s' * (others > 1)}" if others > 0 else ""
        return f"This run differs from {self.table} of the paper: {', '.join(named)}{suffix}."


def published_result(config: Config, subset: str | None = None) -> PublishedResult | None:
    """Return the figures of the paper for a run, or None if it has none for this dataset and method.

    If several rows have the method, for example in the ablations, the one with the fewest differences in
    training is returned, and the first of them in the order of the tables.

    Args:
        config: the run.
        subset: as in `protocol_differences`.
    """
    if config.engine.fast_dev_run:
        return None
    results = (_result(table, *cell, config, subset) for table, cell in _cells(config))
    return min(results, key=lambda result: len(result.differences), default=None)


_read = cache(PaperTable.read)


def paper_datasets() -> set[str]:
    """Return the dataset presets that the tables of the paper use."""
    return {column.dataset for table in map(_read, _TABLES) for column in table.columns}


def _cells(config: Config) -> Iterator[tuple[PaperTable, tuple[PaperRow, PaperColumn]]]:
    """Yield the cells with a figure for the dataset and the method of a run."""
    for table in map(_read, _TABLES):
        for row, column in table.cells:
            same_images = column.dataset == config.data.dataset and (
                column.settings.get("data.imbalance") == config.data.imbalance
            )
            known = any(figure is not None for figure in row.paper[column.name])
            if same_images and known and _has_method(config, row, column):
                yield table, (row, column)


def _has_method(config: Config, row: PaperRow, column: PaperColumn) -> bool:
    """Return True if a run has the method of a cell, or only its first stage if the cell shows that."""
    method = column.method or row.method
    if row.result == "final":
        return config.method.name == method
    return not config.rebalance.enabled and not first_stage_differences(config, method)


def _result(
    table: PaperTable, row: PaperRow, column: PaperColumn, config: Config, subset: str | None
) -> PublishedResult:
    published = table.config(row, column)
    if row.result == "before":
        stage = published.rebalance.model_copy(update={"epochs": 0, "readout": "none"})
        published = published.model_copy(update={"rebalance": stage})
    figures = dict(zip(column.metrics, row.paper[column.name], strict=True))
    return PublishedResult(
        table=table.label,
        row=row.title,
        note=row.note,
        figures={metric: figure for metric, figure in figures.items() if figure is not None},
        differences=protocol_differences(config, published, subset),
    )
