"""The rows and columns of a table that a request selects, and their replacement by another dataset."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from fasticcl.errors import UserError, nearest
from fasticcl.paper.table import PaperColumn, PaperRow, PaperTable
from fasticcl.preset_files import preset_names
from fasticcl.reproduce.planning.shard_folder import imbalance_of
from fasticcl.reproduce.request import Request
from fasticcl.shards.manifest import Manifest

_OF_DATASET = ("data.dataset", "data.imbalance", "optim.epochs")
"""Settings of a column that belong to its dataset and not to its experiment."""


def selected_table(request: Request) -> PaperTable:
    """Return the table of a request with the selected rows and columns, or those of another dataset.

    Raises:
        UserError: an unknown table, row, column or dataset.
    """
    table = PaperTable.read(request.table)
    rows = _chosen(
        "row", table, request.rows, [(row.name, {row.method, *row.method.split("+")}) for row in table.rows]
    )
    columns = _chosen(
        "column", table, request.columns, [(column.name, {column.dataset}) for column in table.columns]
    )
    table = replace(
        table,
        rows=tuple(row for row in table.rows if row.name in rows),
        columns=tuple(column for column in table.columns if column.name in columns),
    )
    return _on(table, request.on) if request.on else table


def folder_of(on: str | None) -> Path | None:
    """Return the folder of shards that ``--on`` names, or None if it names a dataset preset."""
    return None if on is None or on in preset_names() else Path(on).expanduser()


def _chosen(
    kind: str, table: PaperTable, wanted: Iterable[str], known: list[tuple[str, set[str]]]
) -> set[str]:
    """Return the names that are wanted by themselves or by one of their other names."""
    chosen = set()
    names = [name for name, _ in known]
    for word in wanted:
        exact = [name for name in names if name == word]
        found = exact or [name for name, others in known if word in others]
        if not found:
            close = nearest(
                word, dict.fromkeys([*names, *(other for _, others in known for other in others)])
            )
            close = f"{close} " if close.startswith("Did") else ""
            raise UserError(
                f"{table.name} has no {kind} {word!r}. {close}Its {kind}s are {', '.join(names)}."
            )
        chosen.update(found)
    return chosen or set(names)


def _on(table: PaperTable, on: str) -> PaperTable:
    """Return a table whose columns are replaced by one on another dataset, without the paper's figures.

    There are several columns if those of the paper differ in more than dataset, ratio and epochs.
    """
    dataset, ratio, name = _dataset(on)
    columns: dict[str, PaperColumn] = {}
    for column in table.columns:
        settings = {key: value for key, value in column.settings.items() if key not in _OF_DATASET}
        kind = repr((column.metrics, column.method, sorted(settings.items())))
        if kind not in columns:
            suffix = f"-{len(columns) + 1}" if columns else ""
            title = f"{name}, {column.method}" if column.method else name
            columns[kind] = replace(
                column,
                name=name + (f"-{column.method}" if column.method else suffix),
                title=title,
                dataset=dataset,
                settings=settings | ({"data.imbalance": ratio} if ratio else {}),
            )
    figures = {column.name: (None,) * len(column.metrics) for column in columns.values()}
    rows = tuple(_without_figures(row, figures) for row in table.rows)
    return replace(table, columns=tuple(columns.values()), rows=rows)


def _without_figures(row: PaperRow, figures: dict[str, tuple[None, ...]]) -> PaperRow:
    return replace(row, paper=figures, column_settings={})


def _dataset(on: str) -> tuple[str, int | None, str]:
    """Return the dataset preset of ``--on``, its imbalance ratio if the shards have one, and a name.

    Raises:
        UserError: there is no such preset, and no folder of shards either.
    """
    folder = folder_of(on)
    if folder is None:
        return on, None, on
    manifest = Manifest.read(folder)
    if manifest is None and folder.is_dir():
        raise UserError(
            f"{folder} contains no shards. If it contains images, convert them with: "
            f"fasticcl convert folder {folder} data/{folder.name}"
        )
    if manifest is None:
        raise UserError(
            f"{on!r} is neither a dataset preset nor a folder of shards. {nearest(on, preset_names())}"
        )
    dataset = manifest.dataset if manifest.dataset in preset_names() else "folder"
    ratio = round(imbalance_of(manifest)) if dataset in ("cifar10-lt", "cifar100-lt") else None
    return dataset, ratio, folder.resolve().name
