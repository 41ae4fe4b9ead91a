"""Reports on one run and on several runs: collect the results, render the page, write the files."""

import json
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from fasticcl.config.method_summary import readout_name
from fasticcl.console import print_lines
from fasticcl.engine.loggers import log_figures
from fasticcl.engine.run.folder import RunFolder
from fasticcl.engine.run.weights import WEIGHTS
from fasticcl.errors import TrainingFailed, UserError
from fasticcl.files import write_file
from fasticcl.plural import counted
from fasticcl.report.class_analysis import ClassAnalysis, evaluate_classes
from fasticcl.report.comparison import comparison_figures, comparison_sections
from fasticcl.report.data_files import classes_csv, comparison_json, latex_table, run_json
from fasticcl.report.page import PageFigure, render_page
from fasticcl.report.plotting import inline_svg, to_png, to_svg
from fasticcl.report.run_figures import run_figures
from fasticcl.report.run_groups import group_runs
from fasticcl.report.run_history import RunHistory, read_history
from fasticcl.report.run_sections import run_sections
from fasticcl.version import __version__

PAGE, DATA, TABLE, CLASSES, FIGURES = "report.html", "report.json", "table.tex", "classes.csv", "figures"
_FOOTER = f"fasticcl {__version__}. Data: {DATA}, {TABLE}. Figures: {FIGURES}/."


def report_run(
    folder: Path, output: Path | None = None, *, device: str | None = None, workers: int | None = None
) -> Path:
    """Write the report of one run and return the path of its page.

    The weights are evaluated per class only once. Later reports reuse the results in ``report.json`` while
    the weights are the same. If the weights or the shards are missing, the report omits the per-class
    results and gives the reason.

    Args:
        folder: the run folder.
        output: the output folder. None writes into the run folder.
        device: auto, cpu or gpu. None uses the run's setting.
        workers: number of threads. None uses the run's setting.

    Raises:
        UserError: the folder holds no run or no evaluated epoch, or the output folder cannot be written.
    """
    history, reason = read_history(folder), ""
    analysis = ClassAnalysis.stored(_stored_analysis(folder / DATA), folder / WEIGHTS)
    if analysis is None:
        try:
            analysis = evaluate_classes(folder, device=device, workers=workers)
        except (UserError, TrainingFailed) as error:
            reason = str(error)
    files, figures = _export(run_figures(history, analysis))
    sections = [*run_sections(history, analysis, figures, reason)]
    texts = {
        DATA: run_json(history, analysis),
        TABLE: latex_table(group_runs([history])),
        PAGE: render_page(history.title, _subtitle(history), sections, _FOOTER),
    }
    if analysis:
        texts[CLASSES] = classes_csv(analysis)
    return _write(output or folder, files, texts)


def report_finished_run(folder: Path, console: Console | None) -> None:
    """Write and log the report of a run that has just finished.

    An error only prints a warning, because the run itself has succeeded and the report can be written later.
    """
    config = RunFolder.open(folder).config
    command = f"fasticcl report {shlex.quote(str(folder))}"
    try:
        _print(console, f"report   {report_run(folder)}")
    except (Exception, KeyboardInterrupt) as error:
        reason = str(error) or "interrupted"
        _warn(console, f"warning  no report was written ({reason}). Write it with: {command}")
        return
    try:
        log_figures(folder, config, {path.stem: path for path in sorted((folder / FIGURES).glob("*.png"))})
    except Exception as error:  # loggers raise exceptions of many kinds
        _warn(console, f"warning  the figures were not logged: {error}")


def _print(console: Console | None, line: str) -> None:
    if console:
        print_lines(console, [line])


def _warn(console: Console | None, line: str) -> None:
    """Print a warning, on standard error if the console is quiet or missing."""
    _print(console if console and not console.quiet else Console(stderr=True), line)


def report_comparison(folders: Sequence[Path], output: Path) -> Path:
    """Write a report that compares several runs and return the path of its page.

    Args:
        folders: the run folders.
        output: the output folder.

    Raises:
        UserError: there are no folders, a folder is given twice or holds no finished run, or the output
            folder cannot be written.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("A run is listed twice. List each run once, because duplicates distort the means.")
    if not folders:
        raise UserError("There is no run to report. Specify at least one run folder.")
    histories = [read_history(folder) for folder in folders]
    for history in histories:
        if not history.finished:
            raise UserError(
                f"{history.folder} is not finished, so it cannot be compared. Leave it out or finish it. "
                f"{RunFolder.open(history.folder).how_to_finish}"
            )
    groups = group_runs(histories)
    files, figures = _export(comparison_figures(groups))
    sections = [*comparison_sections(groups, [*figures.values()])]
    subtitle = " / ".join(group.label for group in groups)
    texts = {
        DATA: comparison_json(groups),
        TABLE: latex_table(groups),
        PAGE: render_page(f"{len(folders)} runs", subtitle, sections, _FOOTER),
    }
    return _write(output, files, texts)


def _export(
    figures: Iterable[tuple[str, Figure, str]],
) -> tuple[dict[str, bytes], dict[str, PageFigure]]:
    """Return the SVG and PNG files of figures by path, and the inline figures of the page by name."""
    files, page_figures = {}, {}
    for name, figure, caption in figures:
        svg = to_svg(figure, name)
        files |= {f"{FIGURES}/{name}.svg": svg, f"{FIGURES}/{name}.png": to_png(figure)}
        page_figures[name] = PageFigure(inline_svg(svg), caption)
    return files, page_figures


def _write(folder: Path, files: dict[str, bytes], texts: dict[str, str]) -> Path:
    """Write the files of a report, the page last, and return the path of the page."""
    try:
        (folder / FIGURES).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_file(folder / name, content)
        for name, text in texts.items():
            write_file(folder / name, text.encode())
    except OSError as error:
        raise UserError(
            f"Cannot write the report into {folder}: {error.strerror}. Choose another --output."
        ) from None
    return folder / PAGE


def _stored_analysis(path: Path) -> Any:
    """Return the per-class results in an earlier report, or None if there are none."""
    try:
        return json.loads(path.read_bytes())["details"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _subtitle(history: RunHistory) -> str:
    config, rebalance = history.config, history.config.rebalance
    is_trained = rebalance.readout == "none"
    second = f"{rebalance.epochs} of rebalancing" if is_trained else f"the readout {readout_name(rebalance)}"
    first = f"{counted(config.optim.epochs, 'epoch')} of representation learning"
    return (
        f"{config.method.name}, {config.method.encoder}, {first} and {second}, batch size "
        f"{config.optim.batch_size}, seed {config.engine.seed}"
    )
