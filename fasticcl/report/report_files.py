"""The files of a report: page, figures as SVG and PNG, numbers as JSON, CSV and LaTeX."""

import csv
import io
import json
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from fasticcl.console import print_lines
from fasticcl.engine.loggers import log_figures
from fasticcl.engine.run.folder import RunFolder
from fasticcl.engine.run.weights import WEIGHTS
from fasticcl.errors import TrainingFailed, UserError
from fasticcl.files import write_file
from fasticcl.report import sections
from fasticcl.report.class_analysis import Details, measure
from fasticcl.report.drawing import inline, png, svg
from fasticcl.report.figures import KEYS, run_figures
from fasticcl.report.page import Drawing, render
from fasticcl.report.run_groups import Group, group, latex, overlaid
from fasticcl.report.run_record import RunRecord, read_record
from fasticcl.version import __version__

PAGE, NUMBERS, FIGURES = "report.html", "report.json", "figures"
_EVERY_RUN = "Every run is a line; in brackets how many there are."


def report_run(
    folder: Path, output: Path | None = None, *, device: str | None = None, workers: int | None = None
) -> Path:
    """Write the report of one run and return its page.

    The weights are evaluated class by class once; a later report of the same weights takes that from
    ``report.json``. Where they or the shards are missing, the page says so and has the rest.

    Args:
        folder: the run folder.
        output: where the files go; None: into the run folder.
        device: auto, cpu or gpu; None: as the run was started.
        workers: threads; None: as the run was started.

    Raises:
        UserError: no run, no finished epoch, or a folder that cannot be written.
    """
    record, missing = read_record(folder), ""
    details = Details.read(_kept(folder / NUMBERS), folder / WEIGHTS)
    if details is None:
        try:
            details = measure(folder, device=device, workers=workers)
        except (UserError, TrainingFailed) as error:
            missing = str(error)
    files, drawings = _drawn(run_figures(record, details))
    page = render(
        record.title,
        _subtitle(record),
        [*sections.of_run(record, details, drawings, missing)],
        _footer(),
    )
    texts = {NUMBERS: _numbers(record, details), "table.tex": latex(group([record])), PAGE: page}
    if details:
        texts["classes.csv"] = _classes(details)
    return _write(output or folder, files, texts)


def report_finished(folder: Path, console: Console | None) -> None:
    """Write the report of a run that has just ended, if its configuration wants one; never fail it."""
    config = RunFolder.open(folder).config
    if not config.engine.report:
        return
    again = f"fasticcl report {shlex.quote(str(folder))}"
    try:
        _say(console, f"report   {report_run(folder)}")
    except (Exception, KeyboardInterrupt) as error:  # the run has ended well, and a report can wait
        _warn(console, f"warning  no report ({str(error) or 'interrupted'}); write it with: {again}")
        return
    try:
        log_figures(folder, config, {path.stem: path for path in sorted((folder / FIGURES).glob("*.png"))})
    except Exception as error:  # whatever ails a logger
        _warn(console, f"warning  the figures were not logged: {error}")


def _say(console: Console | None, line: str) -> None:
    if console:
        print_lines(console, [line])


def _warn(console: Console | None, line: str) -> None:
    """Say what a person should know, on standard error where all else is silent."""
    _say(console if console and not console.quiet else Console(stderr=True), line)


def report_runs(folders: Sequence[Path], output: Path) -> Path:
    """Write a report that compares runs and return its page.

    Args:
        folders: their folders.
        output: where the files go.

    Raises:
        UserError: a folder without a run, a run twice, or a folder that cannot be written.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("A run is named twice; name each once, or its weight in the means would be double.")
    if not folders:
        raise UserError("Name the run folders that are to be reported.")
    records = [read_record(folder) for folder in folders]
    for record in records:
        if not record.finished:
            raise UserError(
                f"{record.folder} is not finished, so it cannot enter the means. Leave it out. "
                f"{RunFolder.open(record.folder).how_to_finish}"
            )
    groups = group(records)
    files, drawings = _drawn(
        (name, overlaid(groups, key, f"Top-1 accuracy, {name}"), _EVERY_RUN) for name, key in KEYS.items()
    )
    labels = " / ".join(each.label for each in groups)
    page = render(
        f"{len(folders)} runs", labels, [*sections.of_groups(groups, [*drawings.values()])], _footer()
    )
    return _write(output, files, {NUMBERS: _comparison(groups), "table.tex": latex(groups), PAGE: page})


def _drawn(
    figures: Iterable[tuple[str, Figure, str]],
) -> tuple[dict[str, bytes], dict[str, Drawing]]:
    """Return the files of figures, and what the page shows of them by name."""
    files, drawings = {}, {}
    for name, figure, caption in figures:
        vectors = svg(figure, name)
        files |= {f"{FIGURES}/{name}.svg": vectors, f"{FIGURES}/{name}.png": png(figure)}
        drawings[name] = Drawing(inline(vectors), caption)
    return files, drawings


def _write(folder: Path, files: dict[str, bytes], texts: dict[str, str]) -> Path:
    try:
        (folder / FIGURES).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_file(folder / name, content)
        for name, text in texts.items():
            write_file(folder / name, text.encode())
    except OSError as error:
        raise UserError(
            f"Cannot write the report into {folder}: {error.strerror}; choose another --output."
        ) from None
    return folder / PAGE


def _kept(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())["details"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _numbers(record: RunRecord, details: Details | None) -> str:
    values = {
        **_summary(record),
        "accuracies": {
            name: {"epoch": epoch, **metrics} for name, (epoch, metrics) in record.accuracies.items()
        },
        "differences": {
            key: {"preset": preset, "run": value} for key, (preset, value) in record.differences.items()
        },
        "settings": record.group,
        "environments": record.environments,
        "details": details and details.model_dump(mode="json"),
    }
    return json.dumps(values, indent=1) + "\n"


def _comparison(groups: Sequence[Group]) -> str:
    values = [
        {
            "label": each.label,
            "runs": [{**_summary(run), **run.final} for run in each.runs],
            "statistics": {key: each.statistics(key) for key in KEYS.values()},
        }
        for each in groups
    ]
    return json.dumps({"groups": values}, indent=1) + "\n"


def _summary(record: RunRecord) -> dict[str, Any]:
    config = record.config
    return {
        "run": record.folder.name,
        "dataset": config.data.dataset,
        "method": config.method.name,
        "seed": config.engine.seed,
    }


def _classes(details: Details) -> str:
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(
        ["class", "training_images", f"{details.split}_images", *(f"right_{name}" for name in details.right)]
    )
    writer.writerows(
        zip(details.classes, details.train_counts, details.seen, *details.right.values(), strict=True)
    )
    return table.getvalue()


def _subtitle(record: RunRecord) -> str:
    method, optim = record.config.method, record.config.optim
    return (
        f"{method.name}, {method.encoder}, {optim.epochs} epochs and {record.config.rebalance.epochs} of "
        f"rebalancing, batch {optim.batch_size}, seed {record.config.engine.seed}"
    )


def _footer() -> str:
    return f"fasticcl {__version__}. Numbers: {NUMBERS}, table.tex; figures: {FIGURES}/."
