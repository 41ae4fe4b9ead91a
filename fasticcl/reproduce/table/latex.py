"""The table of a result in LaTeX, with the package booktabs."""

from collections.abc import Iterator
from itertools import accumulate, pairwise

from fasticcl.paper.table import PaperRow
from fasticcl.reproduce.result import CellResult, Epoch, TableResult
from fasticcl.reproduce.table import wording
from fasticcl.reproduce.table.wording import Marks

_ESCAPES = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # a bracket after \\ would be read as its argument
    "]": "{]}",
    "†": r"$^{\dagger}$",
    "*": r"$^{*}$",
    "±": r"$\pm$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "×": r"$\times$",
    "√": r"$\surd$",
    "“": "``",
    "”": "''",
    "’": "'",
    "\N{MINUS SIGN}": "$-$",
    "\N{NO-BREAK SPACE}": "~",
    "\n": " ",
}
_GREEK_NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi "
    "chi psi omega"
)
_GREEK = dict(zip("αβγδεζηθικλμνξπρστυφχψω", _GREEK_NAMES.split(), strict=True))
_PREAMBLE = """\
% {heading}
% Needs \\usepackage{{booktabs}} and, for wide tables, \\usepackage{{graphicx}}."""


def latex(result: TableResult) -> str:
    """Return two LaTeX tables: accuracies at the last epoch and at the best epoch."""
    marks = Marks.of(result)
    preamble = _PREAMBLE.format(heading=wording.heading(result).replace("\n", " "))
    made = [f"% Made with: {line}" for line in result.command.splitlines()]
    last, best = ("\n".join(_table(result, epoch, marks)) for epoch in ("last", "best"))
    return "\n".join([preamble, *made, last, "", best]) + "\n"


def _table(result: TableResult, epoch: Epoch, marks: Marks) -> Iterator[str]:
    number = sum(len(column.metrics) for column in result.columns)
    yield r"\begin{table*}"
    yield rf"\caption{{{_caption(result, epoch)}}}"
    yield r"\centering"
    yield r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%"
    yield rf"\begin{{tabular}}{{l{'c' * number}}}"
    yield r"\toprule"
    yield from _header(result)
    yield r"\midrule"
    for row in result.rows:
        yield from _row(result, row, epoch, marks)
        yield r"\addlinespace"
    yield r"\bottomrule"
    yield r"\end{tabular}}"
    yield r"\end{table*}"


def _row(result: TableResult, row: PaperRow, epoch: Epoch, marks: Marks) -> Iterator[str]:
    """Yield a line with our accuracies and, if any is published, with the paper's and the differences."""
    ours, paper, differences = [latex_text(wording.row_title(row))], [r"\quad paper"], [r"\quad difference"]
    is_published = False
    for column in result.columns:
        cell = result.cells.get((row.name, column.name))
        if cell is None:
            for line in (ours, paper, differences):
                line += [""] * len(column.metrics)
            continue
        for i, metric in enumerate(cell.metrics):
            is_published |= metric.paper is not None
            accuracy = latex_text(wording.accuracy(metric, epoch))
            note = _note(result, cell, marks) if i == 0 and accuracy else ""
            ours.append(f"{accuracy or '--'}{note}")
            paper.append(latex_text(wording.published(metric)))
            differences.append(latex_text(wording.difference(metric, epoch)))
    lines = (ours, paper, differences) if is_published else (ours,)
    yield from (" & ".join(line) + r" \\" for line in lines)


def _note(result: TableResult, cell: CellResult, marks: Marks) -> str:
    """Return the letters of a cell, and its number of seeds if not all cells have the same."""
    letters = marks(result, cell)
    text = rf"\textsuperscript{{{letters}}}" if letters else ""
    return text if wording.same_number_of_seeds(result) else f"{text}~({cell.finished})"


def _header(result: TableResult) -> Iterator[str]:
    grouped = any(len(column.metrics) > 1 for column in result.columns)
    if grouped:
        titles = [
            rf"\multicolumn{{{len(column.metrics)}}}{{c}}{{{latex_text(column.title)}}}"
            for column in result.columns
        ]
        yield " & ".join(["", *titles]) + r" \\"
        ends = [*accumulate((len(column.metrics) for column in result.columns), initial=1)]
        yield " ".join(rf"\cmidrule(lr){{{start + 1}-{end}}}" for start, end in pairwise(ends))
        names = [title for column in result.columns for title in column.titles]
    else:
        names = [column.title for column in result.columns]
    yield " & ".join(["Method", *map(_stacked, names)]) + r" \\"


def _stacked(title: str) -> str:
    """Return a title with a line for each of its parts, which are separated by commas."""
    lines = r" \\ ".join(map(latex_text, title.split(", ")))
    return rf"\shortstack{{{lines}}}" if ", " in title else lines


def _caption(result: TableResult, epoch: Epoch) -> str:
    seeds = wording.same_number_of_seeds(result)
    number = f"over {seeds} seeds" if seeds else "over the seeds, whose number is in parentheses"
    published = ", with the figure of the paper and the difference" if result.has_published else ""
    texts = [
        f"{wording.caption(result)}. Top-1 accuracy (%) at the {epoch} epoch: mean ± sample standard "
        f"deviation {number}{published}.",
        wording.protocol_note(result),
        *(f"{letter}: {text}." for text, letter in Marks.of(result).texts.items()),
    ]
    if epoch == "best":
        texts.append(wording.best_note(result))
    return " ".join(map(latex_text, texts))


def latex_text(text: str) -> str:
    """Return a text for LaTeX: special characters are escaped, and symbols such as τ_d are set as math."""
    parts = []
    for token in wording.symbols(text):
        if isinstance(token, str):
            parts.append("".join(_character(letter) for letter in token))
        else:
            symbol, lower, upper = token
            letter = "".join(f"\\{_GREEK[each]}" if each in _GREEK else each for each in symbol)
            letter = letter.replace("′", "'")
            scripts = (f"_{{\\mathrm{{{lower}}}}}" if lower else "") + (
                f"^{{\\mathrm{{{upper}}}}}" if upper else ""
            )
            parts.append(f"${letter}{scripts}$")
    return "".join(parts)


def _character(letter: str) -> str:
    if letter in _GREEK:
        return f"$\\{_GREEK[letter]}$"
    return _ESCAPES.get(letter, letter)
