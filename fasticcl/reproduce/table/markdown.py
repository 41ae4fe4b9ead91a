"""The table of a result in Markdown."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from fasticcl.reproduce.result import CellResult, Epoch, MetricResult, TableResult
from fasticcl.reproduce.table import wording
from fasticcl.reproduce.table.page import run_link, run_path
from fasticcl.reproduce.table.wording import Marks


def markdown(result: TableResult, folder: Path, figures: Mapping[str, str] | None = None) -> str:
    """Return the result as Markdown.

    Args:
        result: the result.
        folder: the folder of the file, to which the links to runs are relative.
        figures: captions of the figures by file name.
    """
    return "\n".join(_lines(result, folder, figures or {})) + "\n"


def _lines(result: TableResult, folder: Path, figures: Mapping[str, str]) -> Iterator[str]:
    marks = Marks.of(result)
    yield f"# {_escape(wording.heading(result))}"
    for paragraph in wording.introduction(result):
        yield from ("", _escape(paragraph))
    yield ""
    for file, caption in figures.items():
        yield from (f"![{wording.number(result)}]({quote(file)})", "", _escape(caption), "")
    for epoch, title in (("last", "last"), ("best", "best")):
        yield from (f"## Accuracy at the {title} epoch", "")
        if epoch == "best":
            yield from (wording.best_note(result), "")
        yield from _accuracy_table(result, epoch, marks)
        yield ""
        if epoch == "last":
            yield from (f"- {letter}: {_escape(text)}" for text, letter in marks.texts.items())
            yield from (f"- {_escape(note)}" for note in wording.row_notes(result))
            yield from (f"- problem: {_escape(problem)}" for problem in result.problems)
            yield from (f"- {_escape(note)}" for note in result.notes)
            yield ""
    yield from ("## Runs", "")
    yield from _table(("method", "column", "seed", "state", "run"), _runs(result, folder))
    if result.command:
        yield from ("", "Made with:", "", f"    {result.command}")


def _accuracy_table(result: TableResult, epoch: Epoch, marks: Marks) -> Iterator[str]:
    header = ["method"]
    for column in result.columns:
        titles = column.titles if len(column.metrics) > 1 else ("",)
        header += [f"{_escape(column.title)}, {title}".removesuffix(", ") for title in titles]
    rows = []
    for row in result.rows:
        texts = [_escape(wording.row_title(row))]
        for column in result.columns:
            cell = result.cells.get((row.name, column.name))
            texts += (
                [_cell(result, cell, metric, epoch, marks) for metric in cell.metrics]
                if cell
                else [""] * len(column.metrics)
            )
        rows.append(texts)
    yield from _table(header, rows)


def _cell(result: TableResult, cell: CellResult, metric: MetricResult, epoch: Epoch, marks: Marks) -> str:
    accuracy = wording.accuracy(metric, epoch)
    if not accuracy:
        text = "–" if cell.finished else _escape(wording.unfinished(cell))
    elif metric is cell.metrics[0]:
        letters = marks(result, cell)
        mark = f"<sup>{letters}</sup>" if letters else ""
        text = f"**{accuracy}**{mark} ({wording.seeds(cell, metric, epoch)})"
    else:
        text = f"**{accuracy}**"
    if metric.paper is not None:
        difference = wording.difference(metric, epoch)
        text += f"<br>paper {wording.published(metric)}" + (f" ({difference})" if difference else "")
    return text


def _runs(result: TableResult, folder: Path) -> Iterator[list[str]]:
    for cell in result.cells.values():
        for run in cell.runs:
            path, link = _escape(run_path(run.folder, folder)), run_link(run.folder, folder)
            texts = map(_escape, (wording.row_title(cell.row), cell.column.title, str(run.seed), run.status))
            yield [*texts, f"[{path}]({link})" if link else path]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]] | Iterator[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _escape(text: str) -> str:
    """Escape the characters that Markdown or HTML would interpret."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", text)
