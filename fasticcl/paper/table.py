"""A table or figure of the paper, read from ``presets/paper/NAME.toml``."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from fasticcl.config import Config, Recipe
from fasticcl.config.layers import as_layer, merge
from fasticcl.errors import UserError, nearest
from fasticcl.preset_files import PRESETS
from fasticcl.resolve import named_presets

Metric = Literal["overall", "many", "medium", "few", "tail"]
"""Groups of classes. ``tail`` contains the medium and few-shot classes (Table 4)."""
Kind = Literal["table", "curves", "norms"]
"""``curves``: the metrics plotted over the rows (Figure 4). ``norms``: weight norms per class (Figure 3)."""


@dataclass(frozen=True)
class PaperColumn:
    """One training setup of a table, with one or more metrics."""

    name: str
    """Identifier for ``--columns``, such as ``cifar100-lt-100``."""
    title: str
    dataset: str
    """Name of a dataset preset."""
    metrics: tuple[Metric, ...] = ("overall",)
    metric_titles: Mapping[Metric, str] = field(default_factory=dict)
    """Titles of metrics as printed in the paper, if they are not the capitalised names (Table 4)."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings as ``{"section.key": value}``, such as ``data.imbalance``."""
    method: str | None = None
    """Method that replaces that of the row (Table 8, cRT)."""

    @property
    def titles(self) -> tuple[str, ...]:
        """Titles of the metrics."""
        return tuple(self.metric_titles.get(metric, metric.capitalize()) for metric in self.metrics)


@dataclass(frozen=True)
class PaperRow:
    """One method or setting of a table."""

    name: str
    """Identifier for ``--rows``."""
    title: str
    """As printed in the paper."""
    method: str
    """A method preset, or two joined by ``+``: the first stage of one and the second stage of another."""
    paper: Mapping[str, tuple[float | None, ...]]
    """The published figures in percent by column name, one for each metric. None: not known.

    A column without an entry has no cell in this row.
    """
    settings: Mapping[str, Any] = field(default_factory=dict)
    column_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of the row in one column, by column name. They override those of the row and of the column."""
    recipe: Recipe = "preset"
    result: Literal["final", "before"] = "final"
    """``before``: the accuracy before the second stage (Table 7)."""
    note: str = ""
    """Source of the figures or a difference that the paper states, without a full stop."""


@dataclass(frozen=True)
class PaperTable:
    """A table or figure of the paper."""

    name: str
    """``table1`` to ``table8``, ``figure3`` or ``figure4``."""
    title: str
    """The caption of the paper in short."""
    columns: tuple[PaperColumn, ...]
    rows: tuple[PaperRow, ...]
    kind: Kind = "table"
    note: str = ""
    x: str = ""
    """The setting on the x axis, if ``kind`` is ``curves``."""

    @property
    def label(self) -> str:
        """The name in words, for example ``Table 1``."""
        kind = self.name.rstrip("0123456789")
        return f"{kind.capitalize()} {self.name.removeprefix(kind)}"

    @classmethod
    def read(cls, name: str) -> Self:
        """Return a table or figure of the paper.

        Raises:
            UserError: there is no such table.
        """
        known = paper_table_names()
        if name not in known:
            raise UserError(f"There is no {name!r} in the paper's results. {nearest(name, known)}")
        return cls.parse(name, (PRESETS / "paper" / f"{name}.toml").read_text(encoding="utf-8"))

    @classmethod
    def parse(cls, name: str, text: str) -> Self:
        """Return the table with this name and TOML text.

        Raises:
            ValueError: the text contradicts itself.
        """
        tables = tomllib.loads(text)
        columns, rows = [], []
        for key, values in tables.pop("columns").items():
            if "metrics" in values:
                values["metrics"] = tuple(values["metrics"])
            columns.append(PaperColumn(name=key, **values))
        for key, values in tables.pop("rows").items():
            figures = _figures(values.pop("paper", {}))
            rows.append(PaperRow(name=key, paper=figures, **values))
        table = cls(name=name, columns=tuple(columns), rows=tuple(rows), **tables)
        table.check()
        return table

    def check(self) -> None:
        """Raise ValueError if a figure or a setting has no column, or the number of metrics is wrong."""
        columns = {column.name: column for column in self.columns}
        for column in self.columns:
            if unknown := {*column.metrics} - {*get_args(Metric)}:
                raise ValueError(f"{self.name}, {column.name}: unknown metrics {unknown}")
        for row in self.rows:
            for name, figures in row.paper.items():
                if name not in columns or len(figures) != len(columns[name].metrics):
                    raise ValueError(f"{self.name}, {row.name}: the figures of {name} do not fit the columns")
            if unknown := row.column_settings.keys() - row.paper.keys():
                raise ValueError(f"{self.name}, {row.name}: settings of {unknown}, which have no cell")

    @property
    def cells(self) -> Iterator[tuple[PaperRow, PaperColumn]]:
        """Row and column of each cell, row by row."""
        for row in self.rows:
            yield from ((row, column) for column in self.columns if column.name in row.paper)

    def config(self, row: PaperRow, column: PaperColumn, recipe: Recipe | None = None) -> Config:
        """Return the configuration of a cell in the protocol of the paper, with seed 0.

        Args:
            row, column: the cell.
            recipe: "preset" for the schedule of the dataset preset. None: the schedule of the row.

        Raises:
            UserError: the method of the row does not exist or does not work on the dataset of the column.
        """
        method = column.method or row.method
        of_cell = row.column_settings.get(column.name, {})
        settings = merge(map(as_layer, (column.settings, row.settings, of_cell)))
        config = named_presets(column.dataset, method, recipe or row.recipe, settings)
        if config is None:
            raise UserError(f"There is no method {method!r}. `fasticcl presets` lists the methods.")
        return config


def paper_table_names() -> list[str]:
    """Return the sorted names of the tables and figures."""
    return sorted(file.name.removesuffix(".toml") for file in (PRESETS / "paper").iterdir())


def _figures(values: Mapping[str, Any]) -> dict[str, tuple[float | None, ...]]:
    """Return figures by column. TOML has no null, so ``"-"`` stands for a figure that is not published."""
    lists = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    return {name: tuple(None if x == "-" else float(x) for x in row) for name, row in lists.items()}
