"""The files of a result: HTML, Markdown, LaTeX, JSON and figures."""

from dataclasses import replace
from pathlib import Path

from fasticcl.errors import UserError
from fasticcl.files import write_file
from fasticcl.report.page import PageFigure
from fasticcl.report.plotting import inline_svg, to_png, to_svg
from fasticcl.reproduce.result import TableResult
from fasticcl.reproduce.table.curves import curves
from fasticcl.reproduce.table.data_file import json_text
from fasticcl.reproduce.table.latex import latex
from fasticcl.reproduce.table.markdown import markdown
from fasticcl.reproduce.table.norms import norm_figures, read_norms
from fasticcl.reproduce.table.page import html_page


def write_result(result: TableResult, folder: Path) -> list[Path]:
    """Write the files of a result, each atomically, and return their paths, the page first.

    The files are ``NAME.html``, ``NAME.md``, ``NAME.tex`` and ``NAME.json`` with the name of the table,
    and the figures as SVG and PNG.

    Raises:
        UserError: a file cannot be written.
    """
    name, kind = result.table.name, result.table.kind
    norms, problems = read_norms(result) if kind == "norms" else ([], [])
    result = replace(result, problems=(*result.problems, *problems))
    contents: dict[str, bytes] = {}
    figures: dict[str, PageFigure] = {}
    for figure_name, figure, caption in curves(result) if kind == "curves" else norm_figures(name, norms):
        svg = to_svg(figure, figure_name)
        contents |= {f"{figure_name}.svg": svg, f"{figure_name}.png": to_png(figure)}
        figures[f"{figure_name}.svg"] = PageFigure(inline_svg(svg), caption)
    texts = {
        f"{name}.json": json_text(result, folder, norms),
        f"{name}.tex": latex(result),
        f"{name}.md": markdown(result, folder, {file: figure.caption for file, figure in figures.items()}),
        f"{name}.html": html_page(result, folder, [*figures.values()]),
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
