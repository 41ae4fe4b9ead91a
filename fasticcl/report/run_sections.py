"""The sections of the page about one run."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fasticcl.config.method_summary import method_summary
from fasticcl.engine.evaluate import METRICS
from fasticcl.engine.results import row_titles
from fasticcl.longtail import class_groups
from fasticcl.paper.table import Metric
from fasticcl.report.class_analysis import ClassAnalysis
from fasticcl.report.page import (
    Cell,
    Column,
    ConfusedClass,
    PageFigure,
    PageSection,
    Table,
    count_cell,
    percent_cell,
)
from fasticcl.report.run_history import RunHistory

ACCURACY_METRICS: tuple[Metric, ...] = ("overall", "many", "medium", "few")
ACCURACY_COLUMNS = [Column(name, number=True) for name in ACCURACY_METRICS]
_CLASS_ROWS = 1000  # maximum number of rows in the class table. classes.csv lists all classes.
_NO_RESULT = "This run used --fast-dev-run, so it took only a few steps and its accuracies are meaningless. "


def run_sections(
    history: RunHistory, analysis: ClassAnalysis | None, figures: Mapping[str, PageFigure], reason: str
) -> Iterator[PageSection]:
    """Yield the sections about one run.

    Args:
        history: the recorded history of the run.
        analysis: its per-class results, or None if they could not be computed.
        figures: its figures, by name.
        reason: the reason why there are no per-class results.
    """
    yield PageSection("Accuracy", _accuracy_note(history), [accuracy_table(history)])
    yield _settings(history)
    yield PageSection("Training", figures=[figures[name] for name in ("accuracy", "losses")])
    if analysis is None:
        yield PageSection("Per-class results", reason)
    else:
        class_figures = [figures[name] for name in ("per-class", "norms")]
        yield PageSection("Per-class results", tables=[class_table(analysis)], figures=class_figures)
        if analysis.confusions:
            yield PageSection(
                "Most confused classes",
                f"Predictions of the last epoch's weights on the {analysis.split} split.",
                confused_classes=[*_confused_classes(analysis)],
            )
    yield PageSection("Speed", _speed_note(history), [*_environments(history)], [figures["speed"]])
    yield PageSection("Unreadable images", _unreadable_note(history, analysis))


def accuracy_table(history: RunHistory) -> Table:
    """Return the accuracies before and after the second stage, and those of the best epoch."""
    titles = row_titles(history.accuracies)
    stage = " of rebalancing" if "after" in history.accuracies else ""
    rows = [
        [
            Cell(titles[name] + (stage if name == "best" else "")),
            Cell("–") if name == "after" and history.has_readout else count_cell(epoch),
            *(percent_cell(metrics[key]) for key in METRICS),
        ]
        for name, (epoch, metrics) in history.accuracies.items()
    ]
    if history.paper:
        figures = (history.paper.figures.get(name) for name in ACCURACY_METRICS)
        rows.append([Cell(history.paper.title), Cell("–"), *map(percent_cell, figures)])
    return Table([Column("top-1 accuracy (%)"), Column("epoch", number=True), *ACCURACY_COLUMNS], rows)


def class_table(analysis: ClassAnalysis) -> Table:
    """Return one row per class, limited to the classes with the lowest accuracy if there are very many."""
    names = [name for name in analysis.right if name != "best"]
    accuracy = {name: analysis.accuracy(name) for name in names}
    group_of = {
        label: group
        for group, members in class_groups(np.array(analysis.train_counts)).items()
        for label in np.flatnonzero(members).tolist()
    }
    order = np.argsort(accuracy[analysis.final_weights], kind="stable").tolist()[:_CLASS_ROWS]
    rows = [
        [
            Cell(analysis.classes[label]),
            Cell(group_of[label]),
            count_cell(analysis.train_counts[label]),
            count_cell(analysis.seen[label]),
            *(percent_cell(float(accuracy[name][label])) for name in names),
        ]
        for label in order
    ]
    titles = row_titles(analysis.right)
    columns = [Column("class"), Column("group"), Column("training images", number=True)]
    columns.append(Column(f"{analysis.split} images", number=True))
    columns += [Column(f"{titles[name]} (%)", number=True) for name in names]
    caption = (
        f"The {len(rows):,} classes with the lowest accuracy out of {len(analysis.classes):,}. "
        "classes.csv lists all of them."
    )
    return Table(columns, rows, caption if len(rows) < len(analysis.classes) else "", sortable=True)


def _accuracy_note(history: RunHistory) -> str:
    best = (
        "Report the accuracies of the last epoch. The best epoch was selected on the images that it is "
        "evaluated on, so its accuracy is optimistic. "
    )
    return (
        (_NO_RESULT if history.config.engine.fast_dev_run else "")
        + (best if "best" in history.accuracies else "")
        + (f"{history.subset_note} " if history.subset_note else "")
        + (f"{history.seed_note} " if history.seed_note else "")
        + (f"{history.paper.source_note} {history.paper.protocol_note} " if history.paper else "")
        + "Overall is the share of images classified correctly. "
        "Many (more than 100 training images), medium (20 to 100) and few (fewer than 20) are averages of "
        "the per-class accuracies in each group."
    )


def _settings(history: RunHistory) -> PageSection:
    parts = "; ".join(method_summary(history.effective_config))
    note = f"Method {history.config.method.name}: {parts}." if parts else ""
    settings = [[Cell(key), Cell(_format_value(value))] for key, value in history.settings.items()]
    all_settings = Table([Column("setting"), Column("value")], settings, "All settings", folded=True)
    if not history.differences:
        presets = f"{history.config.data.dataset} and {history.config.method.name}"
        presets += " with its published schedule" * (history.config.optim.recipe == "published")
        note = f"{note} All settings are those of the presets {presets}.".lstrip()
        return PageSection("Settings", note, [all_settings])
    rows = [
        [Cell(key), Cell(_format_value(preset)), Cell(_format_value(value))]
        for key, (preset, value) in history.differences.items()
    ]
    columns = [Column("setting"), Column("preset"), Column("this run")]
    return PageSection("Settings", note, [Table(columns, rows, "Differences from the presets"), all_settings])


def _format_value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list):
        return f"[{', '.join(map(_format_value, value))}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _confused_classes(analysis: ClassAnalysis) -> Iterator[ConfusedClass]:
    classes, accuracy = analysis.classes, analysis.accuracy(analysis.final_weights)
    for confusion in analysis.confusions:
        label = confusion.label
        mistaken = ", ".join(f"{classes[other]} ({count})" for other, count in confusion.mistaken)
        text = (
            f"{accuracy[label]:.1f} % of {analysis.seen[label]} images classified correctly, with "
            f"{analysis.train_counts[label]} training images. Most often predicted as {mistaken}."
        )
        images = [
            {"png": image.png, "small": image.small, "predicted": classes[image.predicted]}
            for image in confusion.pictures
        ]
        yield ConfusedClass(classes[label], text, images)


def _speed_note(history: RunHistory) -> str:
    epochs = [record for record in history.epochs if "throughput/images_per_sec" in record]
    rates = [record["throughput/images_per_sec"] for record in epochs]
    waits = [record["time/data_wait_pct"] for record in epochs]
    return (
        f"Median over the epochs: {np.median(rates):,.0f} images/s, with {np.median(waits):.0f} % of the "
        "time spent waiting for data. The throughput includes the images of both streams but not evaluation."
        f"{_epoch_note(history)}"
    )


def _epoch_note(history: RunHistory) -> str:
    """Return a sentence on evaluation and saving, or an empty string for records of an older version."""
    records = [record for record in history.epochs if "time/epoch_sec" in record]
    if not records:
        return ""
    seconds = [record["time/epoch_sec"] for record in records]
    evaluation, saving = (
        np.average([record[key] for record in records], weights=seconds)
        for key in ("time/eval_pct", "time/save_pct")
    )
    return f" Of the total time, evaluation took {evaluation:.1f} % and saving {saving:.1f} %."


def _environments(history: RunHistory) -> Iterator[Table]:
    """Yield a table of versions and hardware, in which starts with equal values share a column."""
    if not history.environments:
        return
    started, *keys = (key for key in history.environments[-1] if key != "subset")  # see the accuracies
    starts: dict[tuple[str, ...], list[str]] = {}
    for record in history.environments:
        values = tuple(_format_value(record.get(key)) for key in keys)
        starts.setdefault(values, []).append(_format_value(record.get(started)))
    columns = [Column(started), *(Column(", ".join(times)) for times in starts.values())]
    rows = [[*map(Cell, row)] for row in zip(keys, *starts, strict=True)]
    yield Table(
        columns, rows, "Environment of each start of the run. Starts in the same environment share a column."
    )


def _unreadable_note(history: RunHistory, analysis: ClassAnalysis | None) -> str:
    count = history.unreadable_images
    if not count:
        return "None. All training images that were drawn could be read."
    names = f": {', '.join(analysis.bad_samples)}" if analysis else ""
    return f"{count} training images could not be read and were replaced by others of their class{names}."
