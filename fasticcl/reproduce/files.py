"""The files of a result: HTML, Markdown, LaTeX, JSON and figures."""

from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from fasticcl.errors import UserError
from fasticcl.files import write_file
from fasticcl.report.page import PageFigure
from fasticcl.report.plotting import inline_svg, to_png, to_svg
from fasticcl.reproduce.result import TableResult
from fasticcl.reproduce.table.curves import curves
from fasticcl.reproduce.table.data_file import json_text
from fasticcl.reproduce.table.latex import latex
from fasticcl.reproduce.table.markdown import markdown
from fasticcl.reproduce.table.norms import norms
from fasticcl.reproduce.table.page import html_page


def write_result(result: TableResult, folder: Path) -> list[Path]:
    """Write the files of a result, each atomically, and return their paths, the page first.

    The files are ``NAME.html``, ``NAME.md``, ``NAME.tex`` and ``NAME.json`` with the name of the table,
    and the figures as SVG and PNG.

    Raises:
        UserError: a file cannot be written.
    """
    name = result.table.name
    figures, problems = _figures(result)
    result = replace(result, problems=(*result.problems, *problems))
    contents: dict[str, bytes] = {}
    page_figures = []
    for figure_name, figure, caption in figures:
        svg = to_svg(figure, figure_name)
        contents |= {f"{figure_name}.svg": svg, f"{figure_name}.png": to_png(figure)}
        page_figures.append(PageFigure(inline_svg(svg), caption))
    texts = {
        f"{name}.json": json_text(result, folder),
        f"{name}.tex": latex(result),
        f"{name}.md": markdown(result, folder),
        f"{name}.html": html_page(result, folder, page_figures),
    }
    contents |= {file: text.encode() for file, text in texts.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in contents.items():
            write_file(folder / file, content)
    except OSError as error:
        raise UserError(
            f"Cannot write the result into {folder}: {error.strerror}. Use another --project."
        ) from None
    return [folder / file for file in reversed(contents)]


def _figures(result: TableResult) -> tuple[list[tuple[str, Figure, str]], list[str]]:
    """Return the name, the figure and the caption of each figure, and the problems with drawing them."""
    if result.table.kind == "norms":
        return norms(result)
    return [*curves(result)] if result.table.kind == "curves" else [], []
