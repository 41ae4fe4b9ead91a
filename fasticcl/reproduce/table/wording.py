"""The words and numbers of a result, which all its formats share."""

import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fasticcl.paper.table import Metric, PaperRow
from fasticcl.reproduce.result import CellResult, Epoch, MetricResult, TableResult
from fasticcl.version import __version__

PAPER = "“Improving Tail-Class Representation with Centroid Contrastive Learning”"
AUTHORS = "Tiong, Li, Lin, Li, Xiong and Hoi"
MINUS = "\N{MINUS SIGN}"
_SPACE = "\N{NO-BREAK SPACE}"
_GROUPS: dict[Metric, str] = {
    "many": "Many: classes with more than 100 training images.",
    "medium": "Medium: 20 to 100 training images.",
    "few": "Few: fewer than 20 training images.",
    "tail": "Tail: the medium and few-shot classes together.",
}
_SYMBOL = re.compile(r"\b([A-Za-zα-ω])('?)(?:_([A-Za-z]+))?(?:\^([A-Za-z]+))?(?![\w'])|([α-ω])('?)")


def heading(result: TableResult) -> str:
    """Return the number and the caption, such as "Table 1: Top-1 accuracy on …"."""
    return caption(result) if result.on_other_data else f"{number(result)}: {caption(result)}"


def caption(result: TableResult) -> str:
    """Return the caption of the paper, or the number and the dataset that replaces those of the paper."""
    if not result.on_other_data:
        return result.table.title
    return f"{number(result)} on {facts([column.title for column in result.columns])}"


def number(result: TableResult) -> str:
    """Return the number of the table or figure in the paper, such as "Table 1"."""
    return re.sub(r"(\d+)", r" \1", result.table.name).capitalize()


def row_title(row: PaperRow) -> str:
    """Return the title of a row without the paper's "(ours)", which does not mean our runs."""
    return row.title.replace(" (ours)", "")


def accuracy(metric: MetricResult, epoch: Epoch) -> str:
    """Return the mean and the standard deviation, such as "45.1 ± 0.3". Empty if no run is finished."""
    statistic = metric.at(epoch)
    if statistic.mean is None:
        return ""
    if statistic.std is None:
        return f"{statistic.mean:.1f}"
    return f"{statistic.mean:.1f}{_SPACE}±{_SPACE}{statistic.std:.1f}"


def published(metric: MetricResult) -> str:
    """Return the published figure, or a dash."""
    return "–" if metric.paper is None else f"{metric.paper:.1f}"


def difference(metric: MetricResult, epoch: Epoch) -> str:
    """Return the signed difference from the published figure, or an empty string."""
    value = metric.difference(epoch)
    if value is None:
        return ""
    text = f"{value:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", MINUS)


def seeds(cell: CellResult, metric: MetricResult, epoch: Epoch) -> str:
    """Return the number of runs in a mean, such as "n = 3", or "n = 2 of 3" if others are not finished."""
    count, planned = len(metric.at(epoch).values), len(cell.runs)
    return f"n{_SPACE}={_SPACE}{count}" + (f" of {planned}" if count < planned else "")


def unfinished(cell: CellResult) -> str:
    """Return the state of a cell without a finished run, such as "interrupted at epoch 12 of 60"."""
    runs = [run for run in cell.runs if run.state != "missing"]
    states = ["failed" if run.state == "failed" else run.status for run in runs]
    return "; ".join(dict.fromkeys(states)) or "not trained"


@dataclass(frozen=True)
class Marks:
    """Letters for the differences from the protocol of the paper that only some cells have."""

    texts: dict[str, str]
    """Letter by difference."""

    @classmethod
    def of(cls, result: TableResult) -> "Marks":
        """Return the marks of a table, in the order of its cells."""
        texts = dict.fromkeys(text for cell in result.compared for text in result.own_differences(cell))
        return cls({text: _letter(i) for i, text in enumerate(texts)})

    def __call__(self, result: TableResult, cell: CellResult) -> str:
        """Return the letters of a cell in their order, separated by commas."""
        own = result.own_differences(cell)
        return ",".join(letter for text, letter in self.texts.items() if text in own)


def _letter(i: int) -> str:
    """Return a, b, …, z, aa, ab, …"""
    letters = string.ascii_lowercase
    return letters[i] if i < 26 else letters[i // 26 - 1] + letters[i % 26]


def introduction(result: TableResult) -> list[str]:
    """Return the paragraphs that explain the table: source, contents, class groups, protocol and progress."""
    published = (
        ", the figure published in the paper, and the difference (ours minus the paper’s)"
        if result.has_published
        else ""
    )
    data = ", on data that the paper does not use" if result.on_other_data else ""
    first = [
        f"{number(result)} of {PAPER} (ICCL, by {AUTHORS}), computed with fasticcl {__version__}{data}.",
        f"Each cell of the tables contains the mean top-1 accuracy of our runs in percent{published}.",
        "± is the sample standard deviation (n − 1) over n runs that differ only in the random seed. Only "
        "finished runs are included.",
    ]
    if not (result.has_published or result.on_other_data):
        first.append("The figures of the paper for these cells are not known here.")
    if any("[" in row.title for row in result.rows):
        first.append("Numbers in brackets are the references of the paper.")
    last = [protocol_note(result)]
    if not result.on_other_data and any(row.recipe == "published" for row in result.rows):
        last.append("For figures that the paper quotes, this is the protocol of the quoted authors.")
    runs = result.runs.values()
    done = sum(run.state == "finished" for run in runs)
    if done < len(runs):
        last.append(f"{done} of {len(runs)} runs are finished.")
    return [" ".join(sentences) for sentences in (first, [*groups_note(result)], last) if sentences]


def groups_note(result: TableResult) -> Iterator[str]:
    """Yield the definitions of the class groups in the table."""
    metrics = {metric for column in result.columns for metric in column.metrics}
    groups = [text for metric, text in _GROUPS.items() if metric in metrics]
    if groups:
        yield (
            f"Overall: all images of the evaluated split. {' '.join(groups)} The accuracy of a group of "
            "classes is the mean of the accuracies of its classes."
        )
    if "tail" in metrics and any(cell.finished and not cell.data for cell in result.cells.values()):
        yield (
            "Tail has no figure where the shards are missing, because it needs the number of classes of each "
            "group."
        )


def protocol_note(result: TableResult) -> str:
    """Return a sentence on the differences from the protocol of the paper that all compared cells have."""
    protocol = reference(result)
    if result.common:
        return f"All runs differ from {protocol}: {'; '.join(result.common)}."
    if any(cell.differences for cell in result.compared):
        return f"Cells with a letter differ from {protocol}."
    return f"All runs follow {protocol}."


def reference(result: TableResult) -> str:
    """Return the settings that the runs are compared with, in words."""
    return "the preset of the dataset" if result.on_other_data else "the protocol of the paper"


def best_note(result: TableResult) -> str:
    """Return the sentences on the best epoch."""
    splits = sorted({cell.data.split for cell in result.cells.values() if cell.data})
    split = (
        f"the {' or '.join(splits)} images, which it is evaluated on" if splits else "the evaluated images"
    )
    note = (
        f"The best epoch of each run was chosen on {split}, so its accuracy is optimistic. Use the last "
        "epoch to compare methods."
    )
    if any(run.last and not run.best for run in result.runs.values()):
        note += " Methods whose second stage is not trained have no epochs to choose from."
    return note


def row_notes(result: TableResult) -> Iterator[str]:
    """Yield the notes of the paper's table and of its rows. Rows with the same note share it.

    Notes that the note of the table contains, such as the meaning of an asterisk, are not repeated.
    """
    if result.table.note:
        yield f"{result.table.note}."
    rows: dict[str, list[str]] = {}
    for row in result.rows:
        if row.note and row.note not in result.table.note:
            rows.setdefault(row.note, []).append(row_title(row))
    yield from (f"{', '.join(titles)}: {note}." for note, titles in rows.items())


Token = str | tuple[str, str, str]
"""Plain text, or a symbol with its subscript and superscript."""


def symbols(text: str) -> list[Token]:
    """Split a title into plain text and symbols such as τ_d, γ' and L_ce^it."""
    tokens: list[Token] = []
    end = 0
    for match in _SYMBOL.finditer(text):
        letter, prime, lower, upper, greek, greek_prime = match.groups(default="")
        symbol = letter or greek
        is_symbol = greek or lower or upper or prime or symbol > "z"
        if is_symbol:
            tokens += [
                text[end : match.start()],
                (symbol + (prime or greek_prime).replace("'", "′"), lower, upper),
            ]
            end = match.end()
    return [token for token in [*tokens, text[end:]] if token]


def same_number_of_seeds(result: TableResult) -> int | None:
    """Return the number of finished runs if it is the same in all cells that have any."""
    numbers = {cell.finished for cell in result.cells.values() if cell.finished}
    return numbers.pop() if len(numbers) == 1 else None


def facts(values: Sequence[object]) -> str:
    """Return the different values, joined by a slash."""
    return " / ".join(dict.fromkeys(map(str, values)))
