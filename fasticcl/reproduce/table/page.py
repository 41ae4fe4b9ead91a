"""The HTML page of a result, one self-contained file in the style of the reports."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import get_args
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from fasticcl.paper.table import Metric
from fasticcl.preset_files import DatasetPreset
from fasticcl.report.page import PageFigure
from fasticcl.report.report import PAGE
from fasticcl.reproduce.result import CellResult, Epoch, MetricResult, TableResult
from fasticcl.reproduce.table import wording
from fasticcl.reproduce.table.data_facts import DataFacts
from fasticcl.reproduce.table.run_result import EpochAccuracy
from fasticcl.reproduce.table.wording import Marks
from fasticcl.version import __version__

_REPORT = resources.files("fasticcl.report")
_HERE = resources.files("fasticcl.reproduce.table")


@dataclass(frozen=True)
class AccuracyCell:
    """A cell of the table of accuracies."""

    ours: str = ""
    marks: str = ""
    seeds: str = ""
    paper: str = ""
    """The published figure, with the word "paper" in the first column of a cell."""
    difference: str = ""
    state: str = ""
    """Shown if there is no accuracy."""
    anchor: str = ""
    """Id of the first run of the cell in the table of runs."""
    span: int = 1
    """Number of columns."""


@dataclass(frozen=True)
class AccuracyRow:
    """A row of the table of accuracies."""

    title: str
    cells: Sequence[AccuracyCell]


@dataclass(frozen=True)
class AccuracyTable:
    """The table of accuracies at the last or at the best epoch."""

    title: str
    text: str
    rows: Sequence[AccuracyRow]


@dataclass(frozen=True)
class PlainRow:
    """A row of a table of texts."""

    texts: Sequence[str]
    link: str = ""
    """Target of a link in the last column."""
    anchor: str = ""


@dataclass(frozen=True)
class PlainTable:
    """A section with a table of texts."""

    title: str
    text: str
    columns: Sequence[str]
    rows: Sequence[PlainRow]
    command: str = ""
    sortable: bool = False


def html_page(result: TableResult, folder: Path, figures: Sequence[PageFigure]) -> str:
    """Return the page as HTML. All text is escaped.

    Args:
        result: the result.
        folder: the folder of the page, to which the links to runs are relative.
        figures: the figures of the page.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["symbols"] = wording.symbols
    marks = Marks.of(result)
    last = AccuracyTable("Accuracy at the last epoch", "", [*_accuracy_rows(result, "last", marks)])
    best = AccuracyTable(
        "Accuracy at the best epoch", wording.best_note(result), [*_accuracy_rows(result, "best", marks)]
    )
    return environment.from_string(_text(_HERE, "page.html.j2")).render(
        heading=wording.heading(result),
        number=wording.number(result),
        introduction=wording.introduction(result),
        figures=figures,
        grouped=any(len(column.metrics) > 1 for column in result.columns),
        columns=[{"title": column.title, "metrics": column.titles} for column in result.columns],
        accuracies=[last, best],
        marks=marks.texts,
        row_notes=[*wording.row_notes(result)],
        problems=result.problems,
        notes=result.notes,
        reference=wording.reference(result),
        tables=[_setups(result), _runs(result, folder), _origin(result)],
        footer=f"fasticcl {__version__}. The same data: {result.table.name}.json, .md and .tex.",
        style=Markup(_text(_REPORT, "page.css") + _text(_HERE, "page.css")),
        script=Markup(_text(_REPORT, "page.js")),
    )


def _text(folder: resources.abc.Traversable, name: str) -> str:
    return (folder / name).read_text(encoding="utf-8")


def _accuracy_rows(result: TableResult, epoch: Epoch, marks: Marks) -> Iterator[AccuracyRow]:
    for row in result.rows:
        cells: list[AccuracyCell] = []
        for column in result.columns:
            cell = result.cells.get((row.name, column.name))
            cells += _cells(result, cell, epoch, marks) if cell else [AccuracyCell(span=len(column.metrics))]
        yield AccuracyRow(wording.row_title(row), cells)


def _cells(result: TableResult, cell: CellResult, epoch: Epoch, marks: Marks) -> Iterator[AccuracyCell]:
    is_started = any(run.state != "missing" for run in cell.runs)
    anchor = _anchor(cell) if is_started else ""
    if not cell.finished and all(metric.paper is None for metric in cell.metrics):
        yield AccuracyCell(state=wording.unfinished(cell), anchor=anchor, span=len(cell.metrics))
        return
    for i, metric in enumerate(cell.metrics):
        yield AccuracyCell(
            ours=wording.accuracy(metric, epoch),
            marks=marks(result, cell) if i == 0 else "",
            seeds=wording.seeds(cell, metric, epoch) if i == 0 else "",
            paper="paper " * (i == 0) + wording.published(metric) if metric.paper is not None else "",
            difference=wording.difference(metric, epoch),
            state=_state(cell, metric, epoch) if i == 0 or cell.finished else "",
            anchor=anchor,
        )


def _state(cell: CellResult, metric: MetricResult, epoch: Epoch) -> str:
    """Return the text of a cell without an accuracy."""
    if metric.at(epoch).values:
        return ""
    return "–" if cell.finished else wording.unfinished(cell)


def _anchor(cell: CellResult) -> str:
    return f"{cell.row.name}--{cell.column.name}"


def _setups(result: TableResult) -> PlainTable:
    """Return the data and the training of each column."""
    rows = []
    for column in result.columns:
        cells = [cell for cell in result.cells.values() if cell.column.name == column.name]
        configs = [cell.config for cell in cells]
        data = next((cell.data for cell in cells if cell.data), None)
        unknown = "unknown, the shards are missing"
        rows.append(
            PlainRow(
                [
                    column.title,
                    dataset_title(configs[0].data.dataset),
                    _training_images(data) if data else unknown,
                    f"{data.evaluated_images:,} ({data.split})" if data else unknown,
                    wording.facts([config.method.encoder for config in configs]),
                    wording.facts([config.optim.epochs for config in configs]),
                    wording.facts([config.optim.batch_size for config in configs]),
                ]
            )
        )
    columns = ("column", "dataset", "training images", "evaluated images", "encoder", "epochs", "batch size")
    text = "Epochs are those of the representation stage. The settings of each run are in its report."
    return PlainTable("Data and training", text, columns, rows)


def dataset_title(name: str) -> str:
    """Return the description of a dataset without options, commands and settings of training."""
    title = DatasetPreset.read(name).title.partition(". ")[0]
    return re.sub(r" \((--|see `).*?\)", "", title).removesuffix(".")


def _training_images(data: DataFacts) -> str:
    return f"{data.train_images:,} in {data.classes:,} classes. {data.subset_note}".removesuffix(". ")


def _runs(result: TableResult, folder: Path) -> PlainTable:
    metrics = {metric for column in result.columns for metric in column.metrics}
    names = [name for name in get_args(Metric) if name in metrics]
    rows, anchors = [], set()
    for cell in result.cells.values():
        for run in cell.runs:
            last, best = (_run_values(each, names) for each in (run.last, run.best))
            texts = [wording.row_title(cell.row), cell.column.title, str(run.seed), run.status, *last]
            texts += [str(run.best.epoch) if run.best else "–", best[0]]
            anchor = _anchor(cell)
            rows.append(
                PlainRow(
                    [*texts, run_path(run.folder, folder)],
                    run_link(run.folder, folder),
                    "" if anchor in anchors else anchor,
                )
            )
            anchors.add(anchor)
    columns = ["method", "column", "seed", "state", *names, "best epoch", f"{names[0]} at best epoch", "run"]
    text = (
        "Accuracies in percent at the last epoch and at the best epoch of the last stage. Cells with the "
        "same training share a run."
    )
    return PlainTable("Runs", text, columns, rows, sortable=True)


def _run_values(accuracy: EpochAccuracy | None, metrics: Sequence[Metric]) -> list[str]:
    found = [accuracy.values[metric] if accuracy else None for metric in metrics]
    return ["–" if value is None else f"{value:.1f}" for value in found]


def run_path(run: Path, folder: Path) -> str:
    """Return the path of a run relative to a folder."""
    return Path(os.path.relpath(run, folder)).as_posix()


def run_link(run: Path, folder: Path) -> str:
    """Return the link to the report of a run, to its folder if it has none, or "" if it does not exist."""
    if not run.is_dir():
        return ""
    path = quote(run_path(run, folder))
    return f"{path}/{PAGE}" if (run / PAGE).is_file() else f"{path}/"


def _origin(result: TableResult) -> PlainTable:
    """Return the command, and the versions and the hardware of the runs."""
    counts: dict[tuple[tuple[str, str], ...], int] = {}
    for run in result.runs.values():
        for start in run.environments[-1:]:
            key = tuple(
                (name, str(value)) for name, value in start.items() if name not in ("started", "data")
            )
            counts[key] = counts.get(key, 0) + 1
    names = [*dict.fromkeys(name for key in counts for name, _ in key)]
    rows = [PlainRow([name, *(dict(key).get(name, "–") for key in counts)]) for name in names]
    columns = ["", *(f"{number} run{'s' * (number != 1)}" for number in counts.values())]
    text = "Versions and hardware of the finished runs." if counts else ""
    if result.command:
        text = f"The command that made this page. {text}".strip()
    return PlainTable("How this page was made", text, columns, rows, result.command)
