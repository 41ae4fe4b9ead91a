"""The table of a result for the terminal, at most 80 columns wide."""

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from fasticcl.paper.table import PaperColumn
from fasticcl.reproduce.result import TableResult
from fasticcl.reproduce.table import wording


def terminal_table(result: TableResult) -> Table:
    """Return the accuracies at the last epoch, one line for each metric.

    Cells without a finished run are only counted.
    """
    table = Table(title=Text(wording.heading(result)), title_justify="left", width=80)
    table.add_column("method", ratio=1)
    with_metric = any(len(column.metrics) > 1 for column in result.columns)
    if with_metric:
        table.add_column("")
    for name in ("ours", "n", "paper", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    for column in result.columns:
        lines = [*_lines(result, column)]
        table.add_section()
        blank = [""] * (len(table.columns) - 1)
        table.add_row(Text(column.title, style="bold"), *blank)
        for title, metric, *numbers in lines:
            table.add_row(Text(title), *[metric] * with_metric, *numbers)
        rest = sum(key[1] == column.name and not cell.finished for key, cell in result.cells.items())
        if rest:
            table.add_row(Text(f"{rest} not finished", style="dim"), *blank)
    return table


def terminal_notes(result: TableResult) -> Iterator[str]:
    """Yield lines that explain the numbers and the protocol of the finished runs."""
    if not any(cell.finished for cell in result.cells.values()):
        return
    yield "ours: mean top-1 accuracy in % at the last epoch ± sample standard deviation over n seeds"
    is_marked = bool(wording.Marks.of(result).texts)
    if result.common or not is_marked:
        yield wording.protocol_note(result)
    if is_marked:
        page, reference = f"{result.table.name}.html", wording.reference(result)
        yield f"{page} lists the differences of single cells from {reference}."


def _lines(result: TableResult, column: PaperColumn) -> Iterator[tuple[str, ...]]:
    """Yield the title of the row, the title of the metric, ours, n, the paper's and the difference."""
    for row in result.rows:
        cell = result.cells.get((row.name, column.name))
        if cell is None or not cell.finished:
            continue
        runs = (
            str(cell.finished) if cell.finished == len(cell.runs) else f"{cell.finished} of {len(cell.runs)}"
        )
        for i, (title, metric) in enumerate(zip(column.titles, cell.metrics, strict=True)):
            yield (
                wording.row_title(row) if i == 0 else "",
                title,
                wording.accuracy(metric, "last") or "–",
                runs if i == 0 else "",
                wording.published(metric),
                wording.difference(metric, "last"),
            )
