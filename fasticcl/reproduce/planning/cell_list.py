"""All cells of a request, with the settings that it replaces."""

from collections.abc import Iterator
from dataclasses import dataclass

from fasticcl.config import Config
from fasticcl.errors import UserError
from fasticcl.paper.table import PaperColumn, PaperRow, PaperTable
from fasticcl.reproduce.cell import Cell
from fasticcl.reproduce.planning.requested_settings import RequestedSettings
from fasticcl.reproduce.request import Request
from fasticcl.reproduce.run_key import run_key


@dataclass(frozen=True)
class CellList:
    """The cells of a table, in the order in which they are wanted: all cells with seed 0 come first."""

    cells: list[Cell]
    problems: list[str]
    """Cells that cannot be computed on their dataset, with the reason."""
    notes: list[str]
    """Settings of the request that have no effect in some rows."""

    @classmethod
    def of(cls, table: PaperTable, request: Request) -> "CellList":
        """Return the cells of the rows and columns of a table.

        Raises:
            UserError: a setting is unknown or invalid, or no row uses it.
        """
        settings = RequestedSettings.of(request)
        cells: list[Cell] = []
        errors: dict[str, UserError] = {}
        unused: dict[str, list[str]] = {path: [] for path in settings.paths}
        for column, row in _positions(table):
            try:
                published = table.config(row, column)
                config, unused_here = settings.apply(table.config(row, column, settings.recipe))
            except UserError as error:
                errors[f"{row.name} on {column.name}"] = error
                continue
            cells.append(Cell(row, column, _in_project(config, request), published))
            for path in unused_here:
                unused[path].append(row.name)
        rows = [cell.row.name for cell in cells]
        useless = [path for path, names in unused.items() if len(names) == len(rows)]
        if errors and (useless or not cells):
            raise next(iter(errors.values()))
        if useless:
            names = ", ".join(dict.fromkeys(rows))
            raise UserError(f"{useless[0]} has no effect in any of these rows: {names}. Omit it.")
        notes = [_unused_note(path, names) for path, names in unused.items() if names]
        notes += dict.fromkeys(_equal_rows(cells))
        seeds = [cell.with_seed(seed) for seed in range(request.seeds) for cell in cells]
        return cls(seeds, [f"{cell}: {error}" for cell, error in errors.items()], notes)


def _positions(table: PaperTable) -> Iterator[tuple[PaperColumn, PaperRow]]:
    """Yield column and row of each cell, column by column."""
    for column in table.columns:
        yield from ((column, row) for row in table.rows if column.name in row.paper)


def _in_project(config: Config, request: Request) -> Config:
    return config.model_copy(
        update={"engine": config.engine.model_copy(update={"project": request.project.expanduser()})}
    )


def _unused_note(path: str, rows: list[str]) -> str:
    names = ", ".join(dict.fromkeys(rows))
    return f"{path} has no effect in {names}, and is set only in the other rows"


def _equal_rows(cells: list[Cell]) -> Iterator[str]:
    """Yield a sentence about rows of a column that are the same only because of the requested settings."""
    same: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        same.setdefault((cell.column.name, run_key(cell.config)), []).append(cell)
    for equal in same.values():
        if len({run_key(cell.published) for cell in equal}) > 1:
            names = ", ".join(cell.row.name for cell in equal)
            yield f"with these settings, the rows {names} are the same training"
