"""The sections of the page about one run, and about several."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fasticcl.engine.evaluate import METRICS
from fasticcl.engine.results import TITLES
from fasticcl.longtail import class_groups
from fasticcl.report.class_analysis import Details
from fasticcl.report.page import Cell, Column, Drawing, Mistakes, Section, Table, percent_cell
from fasticcl.report.run_groups import Group
from fasticcl.report.run_record import RunRecord

_MOST_ROWS = 1000  # of the table of classes; classes.csv has all
_NO_RESULT = "Made with --fast-dev-run: a few steps and a few images, no result. "
_ACCURACIES = [Column(name, True) for name in ("overall", "many", "medium", "few")]


def of_run(
    record: RunRecord, details: Details | None, drawings: Mapping[str, Drawing], missing: str
) -> Iterator[Section]:
    """Yield the sections about one run.

    Args:
        record: what its files say.
        details: what its weights say; None: see ``missing``.
        drawings: its figures by name.
        missing: why there are no details.
    """
    yield Section("Accuracy", _accuracy_note(record), [accuracy_table(record)])
    yield _settings(record)
    yield Section("Training", figures=[drawings[name] for name in ("accuracy", "losses")])
    if details is None:
        yield Section("Class by class", missing)
    else:
        figures = [drawings[name] for name in ("per-class", "norms")]
        yield Section("Class by class", tables=[class_table(details)], figures=figures)
        if details.confusions:
            yield Section(
                "The classes with most mistakes",
                f"With the weights of the last epoch, on {details.split}.",
                confusions=[*_mistakes(details)],
            )
    yield Section("Speed", _speed_note(record), [*_environments(record)], [drawings["speed"]])
    yield Section("Unreadable images", _bad_note(record, details))


def accuracy_table(record: RunRecord) -> Table:
    """Return the accuracies before and after rebalancing, and of the best epoch."""
    stage = " of rebalancing" if "after" in record.accuracies else ""
    rows = [
        [
            Cell(TITLES[name] + (stage if name == "best" else "")),
            _number(epoch),
            *(percent_cell(metrics[key]) for key in METRICS),
        ]
        for name, (epoch, metrics) in record.accuracies.items()
    ]
    return Table([Column("top-1 accuracy, %"), Column("epoch", True), *_ACCURACIES], rows)


def class_table(details: Details) -> Table:
    """Return one row per class; of very many classes those with the lowest accuracy."""
    final = details.final
    names = [name for name in details.right if name != "best"]
    accuracy = {name: details.accuracy(name) for name in names}
    member = {
        label: name
        for name, each in class_groups(np.array(details.train_counts)).items()
        for label in np.flatnonzero(each).tolist()
    }
    order = np.argsort(accuracy[final], kind="stable").tolist()[:_MOST_ROWS]
    rows = [
        [
            Cell(details.classes[label]),
            Cell(member[label]),
            _number(details.train_counts[label]),
            _number(details.seen[label]),
            *(percent_cell(float(accuracy[name][label])) for name in names),
        ]
        for label in order
    ]
    titles = [Column(f"{TITLES[name]}, %", True) for name in names]
    numbers = [Column("training images", True), Column(f"{details.split} images", True), *titles]
    some = f"The {len(rows):,} of {len(details.classes):,} with the lowest accuracy; classes.csv has all."
    caption = some if len(rows) < len(details.classes) else ""
    return Table([Column("class"), Column("split"), *numbers], rows, caption, sortable=True)


def of_groups(groups: Sequence[Group], drawings: Sequence[Drawing]) -> Iterator[Section]:
    """Yield the sections that compare runs."""
    rows = [
        [
            Cell(each.label),
            _number(each.seeds),
            *(_spread(each, key) for key in METRICS),
        ]
        for each in groups
    ]
    note = "Last epoch of each run; mean and standard deviation (n - 1) over the seeds of a configuration."
    columns = [Column("configuration"), Column("seeds", True), *_ACCURACIES]
    yield Section("Comparison", note, [Table(columns, rows, "Top-1 accuracy, %", sortable=True)], drawings)
    single = [
        [
            Cell(run.title),
            Cell(each.label),
            _number(run.config.engine.seed),
            *(percent_cell(run.final[key]) for key in METRICS),
        ]
        for each in groups
        for run in each.runs
    ]
    columns = [Column("run"), Column("configuration"), Column("seed", True), *_ACCURACIES]
    yield Section("Every run", tables=[Table(columns, single, sortable=True)])


def _number(value: int) -> Cell:
    return Cell(f"{value:,}", value)


def _spread(each: Group, key: str) -> Cell:
    found = each.statistics(key)
    if found is None:
        return percent_cell(None)
    mean, deviation = found
    return percent_cell(
        mean, f"{mean:.1f}" if deviation is None else f"{mean:.1f} ±\N{NO-BREAK SPACE}{deviation:.1f}"
    )


def _accuracy_note(record: RunRecord) -> str:
    short = _NO_RESULT if record.config.engine.fast_dev_run else ""
    return short + (
        "The last epochs are what to report. The best epoch was chosen on the very images that it is "
        "evaluated on, so its figure is optimistic. Overall is the share of images that are right; many "
        "(more than 100 training images), medium (20 to 100) and few (fewer than 20) are means of their "
        "classes' accuracies."
    )


def _settings(record: RunRecord) -> Section:
    different = record.differences
    columns = [Column("setting"), Column("preset"), Column("this run")]
    rows = [
        [Cell(key), Cell(_shown(preset)), Cell(_shown(value))] for key, (preset, value) in different.items()
    ]
    everything = [[Cell(key), Cell(_shown(value))] for key, value in record.group.items()]
    all_of_them = Table([Column("setting"), Column("value")], everything, "All settings", folded=True)
    data, method = record.config.data.dataset, record.config.method.name
    if not rows:
        return Section("Settings", f"Those of the presets {data} and {method}.", [all_of_them])
    return Section("Settings", tables=[Table(columns, rows, "What differs from the presets"), all_of_them])


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _mistakes(details: Details) -> Iterator[Mistakes]:
    names, accuracy = details.classes, details.accuracy(details.final)
    for each in details.confusions:
        taken = ", ".join(f"{names[label]} ({count})" for label, count in each.mistaken)
        text = (
            f"{accuracy[each.label]:.1f} % of {details.seen[each.label]} images are right, "
            f"{details.train_counts[each.label]} training images; taken for {taken}"
        )
        pictures = [
            {"png": picture.png, "small": picture.small, "predicted": names[picture.predicted]}
            for picture in each.pictures
        ]
        yield Mistakes(names[each.label], text, pictures)


def _speed_note(record: RunRecord) -> str:
    rates = [each["throughput/images_per_sec"] for each in record.epochs]
    waits = [each["time/data_wait_pct"] for each in record.epochs]
    return (
        f"Median over the epochs: {np.median(rates):,.0f} images/s, {np.median(waits):.0f} % of the time "
        "spent waiting for data. Images of both streams are counted; evaluation is not."
    )


def _environments(record: RunRecord) -> Iterator[Table]:
    """Yield a table of what the run was made with, one column for all starts that are alike."""
    if not record.environments:
        return
    first, *names = record.environments[-1]
    alike: dict[tuple[str, ...], list[str]] = {}
    for each in record.environments:
        alike.setdefault(tuple(_shown(each.get(name)) for name in names), []).append(_shown(each.get(first)))
    columns = [Column(first), *(Column(", ".join(starts)) for starts in alike.values())]
    rows = [[*map(Cell, row)] for row in zip(names, *alike, strict=True)]
    yield Table(columns, rows, "Made with; one column for all starts that are alike")


def _bad_note(record: RunRecord, details: Details | None) -> str:
    count = record.epochs[-1].get("data/bad_samples", 0)
    if not count:
        return "None: every training image that was drawn could be read."
    names = ", ".join(details.bad_samples) if details else ""
    return f"{count} training images could not be read; others of their class took their places. {names}"
