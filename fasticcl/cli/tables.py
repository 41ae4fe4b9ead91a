"""Tables and lines that the commands print."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from fasticcl.config import Rebalance
    from fasticcl.engine.results import Report
    from fasticcl.export.exporter import ExportResult
    from fasticcl.paper.table import Metric
    from fasticcl.shards.manifest import Manifest
    from fasticcl.shards.summary import Summary
    from fasticcl.sweep.result import SweepResult

_MIN_STEPS = 8  # steps per epoch below which a smaller batch is suggested
_MAX_LINES = 20  # the remaining lines are only counted
ACCURACY_COLUMNS: tuple["Metric", ...] = ("overall", "many", "medium", "few")
_BAR_WIDTH = 40  # characters of the longest bar of a histogram


def first_lines(title: str, lines: list[str]) -> Iterator[str]:
    """Yield the first 20 lines, each with a prefix, and the number of the remaining lines."""
    yield from (title + line for line in lines[:_MAX_LINES])
    if len(lines) > _MAX_LINES:
        yield f"{title}{len(lines) - _MAX_LINES:,} more"


def accuracy_table(report: "Report") -> Table:
    """Return the accuracies of a run as a table."""
    from fasticcl.engine.evaluate import METRICS
    from fasticcl.engine.progress import percent
    from fasticcl.engine.results import row_titles

    stage = "rebalancing " if "after" in report.rows else ""
    titles = {**row_titles(report.rows), "best": f"{stage}epoch {report.best_epoch}, best on {report.split}"}
    table = Table("top-1 accuracy, %", title=f"Evaluated on {report.split}", title_justify="left")
    for column in ACCURACY_COLUMNS:
        table.add_column(column, justify="right")
    for name, metrics in report.rows.items():
        table.add_row(titles[name], *(percent(metrics[key]) for key in METRICS))
    if report.paper:
        table.add_section()
        figures = report.paper.figures
        table.add_row(report.paper.title, *(percent(figures.get(name)) for name in ACCURACY_COLUMNS))
    return table


def paper_note(report: "Report") -> Iterator[str]:
    """Yield a line on the differences from the training of the paper, if it has figures for the run."""
    if report.paper and report.paper.differences:
        yield report.paper.protocol_note


def sweep_table(sweep: "SweepResult") -> Table:
    """Return the accuracies of a sweep as a table that marks the best settings and those of the run."""
    from fasticcl.engine.evaluate import METRICS
    from fasticcl.engine.progress import percent

    title = f"After the second stage, top-1 accuracy in %, evaluated on {sweep.split}"
    if sweep.holdout.seen and sweep.holdout.images:
        title += f",\nrebalanced without {sweep.holdout.images:,} holdout images that the run trained on"
    table = Table(title=title)
    table.title_justify = "left"
    keys = [*sweep.entries[0].values]
    for key in keys:
        table.add_column(key.removeprefix("rebalance.").replace("_", "\n"), justify="right")
    simulated = ["simu-\nlated"] * (sweep.criterion == "simulated")
    for column in ("overall", "many", "medium", "few", "holdout", *simulated, ""):
        table.add_column(column, justify="right")
    before = [*(sweep.before[key] for key in METRICS), sweep.holdout_before]
    before += [sweep.simulated_before] * len(simulated)
    table.add_row("before", *[""] * (len(keys) - 1), *map(percent, before), "")
    for entry in sweep.entries:
        figures = [*(entry.metrics[key] for key in METRICS), entry.holdout_accuracy]
        figures += [entry.simulated_accuracy] * len(simulated)
        marks = ["as in the run"] * entry.same_as_run + ["best"] * (entry is sweep.best)
        values = map(str, entry.values.values())
        table.add_row(*values, *map(percent, figures), ", ".join(marks))
    return table


def sweep_conclusion(sweep: "SweepResult") -> Iterator[str]:
    """Yield the files of a sweep, its holdout, the best settings and the command that trains with them."""
    holdout = sweep.holdout
    yield f"Figure: {sweep.folder / 'sweep.svg'}    data: sweep.json, sweep.csv"
    if holdout.images:
        yield (
            f"holdout: {holdout.images:,} training images of {holdout.classes:,} classes, withheld from "
            "rebalancing. The column is the mean per-class accuracy."
        )
        if holdout.seen:
            yield (
                "         The representation stage was trained on them, so this accuracy is too high, above "
                "all for small classes. `fasticcl train --set data.holdout=0.1` withholds them from both "
                "stages."
            )
    simulated = sweep.criterion == "simulated"
    if simulated:
        yield (
            "simulated: mean per-class accuracy on features drawn from a Gaussian of each class. All classes "
            "have the covariance of the training features. Compare the settings with it, not with the other "
            "columns."
        )
    if not (holdout.images or simulated):
        yield (
            "No best setting was chosen, because there are no holdout images and the evaluated split must "
            "not be used to choose."
        )
    elif not sweep.rated:
        yield (
            f"No best setting was chosen: no setting has a {sweep.criterion} accuracy, because weights or "
            "features are not finite or no class has two training images outside the holdout."
        )
    elif sweep.best is None:
        yield f"No best setting was chosen: the {sweep.criterion} accuracy does not distinguish the settings."
    else:
        values = ", ".join(f"{key}={value}" for key, value in sweep.best.values.items())
        yield f"Best by {sweep.criterion} accuracy: {values}"
        yield f"Next: {sweep.command}    create a run with these settings"


def after_training(report: "Report") -> Iterator[str]:
    """Yield the next commands after training."""
    from fasticcl.engine.run.folder import free_name
    from fasticcl.resolve import resolve

    run = shlex.quote(str(report.run))
    runs, config = report.run.parent, resolve(file=report.run / "config.toml")
    name = free_name(runs, "again") if (runs / "again").exists() else "again"
    seeded = f"--name {name} --seed {config.engine.seed + 1}"
    yield f"Next: fasticcl predict {run} IMAGE...    classify your own images"
    if "after" in report.rows and (setting := _swept_setting(config.rebalance)):
        yield f"      fasticcl sweep {run} --over rebalance.{setting}=0,0.5,1    compare rebalancing settings"
    yield f"      fasticcl train -c {run}/config.toml {seeded}    repeat with another seed"
    if runs.name == "demo" and config.method.name != "ce":
        named = f" --name {free_name(runs, 'ce')}" if config.engine.name else ""  # the file has the old name
        yield f"      fasticcl train -c {run}/config.toml --method ce{named}    a baseline for comparison"
    yield f"      fasticcl report {run} RUN...    compare runs"


def _swept_setting(rebalance: "Rebalance") -> str:
    """Return a setting of the second stage for which a sweep is useful, or an empty string."""
    from fasticcl.config.method_summary import READOUT_PARAMETERS

    if rebalance.readout == "none":
        return "gamma"
    return READOUT_PARAMETERS.get(rebalance.readout, ("", ""))[1]


def after_conversion(manifest: "Manifest", dest: Path) -> str:
    """Return the next command after a conversion, with a smaller batch and learning rate for few images."""
    words = ["fasticcl", "train", manifest.dataset, "--data", str(dest)]
    if ratio := manifest.settings.get("imbalance"):
        words += ["--imbalance", str(ratio)]
    images = sum(manifest.splits["train"].class_counts)
    if manifest.dataset == "folder":
        from fasticcl.resolve import resolve

        optim = resolve("folder").optim
        if images < _MIN_STEPS * optim.batch_size:
            batch_size = max(2, min(32, images // _MIN_STEPS))
            lr = optim.lr * batch_size / optim.batch_size
            words += ["--batch-size", str(batch_size), "--lr", f"{lr:.2g}"]
    return f"Next: {shlex.join(words)}"


def conversion_summary(manifest: "Manifest", dest: Path, source: Path) -> Iterator[str]:
    """Yield the sizes of the splits, the subset, and the numbers of re-encoded and of unreadable images."""
    from fasticcl.convert.layouts import cifar_folder
    from fasticcl.shards.published_subset import published_profile, subset_note

    for split, info in manifest.splits.items():
        size = sum(shard.bytes for shard in info.shards) / 2**20
        yield f"{split:<6} {sum(info.class_counts):>9,} images  {len(info.shards)} shards  {size:,.1f} MiB"
    if note := subset_note(manifest):
        yield f"subset: {note}"
        profile = published_profile(manifest) if manifest.dataset == "folder" else None
        if profile and cifar_folder.recognise(source) == profile[0]:
            layout, ratio = profile
            command = shlex.join(["fasticcl", "convert", layout, str(source)])
            yield f"For these images use: {command} DEST --imbalance {ratio}    same images, checked by train"
    if changed := sum(manifest.reencoded.values()):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(manifest.reencoded.items()))
        yield f"re-encoded: {changed:,} ({reasons})"
    if manifest.quarantined:
        yield f"unreadable and skipped: {manifest.quarantined:,}, listed in {dest / 'quarantine.jsonl'}"


def export_summary(result: "ExportResult") -> Iterator[str]:
    """Yield the files, the input and the outputs of an export, and the difference from PyTorch."""
    yield f"file    {result.file}, {result.file.stat().st_size / 2**20:,.1f} MiB"
    if result.input:
        yield f"input   {result.input}"
        yield f"output  {result.output}"
    yield (
        f"checked against PyTorch on random images: outputs differ by at most {result.difference:.1e} "
        "(relative to the largest logit if it exceeds 1)"
    )
    yield f"card    {result.card}, describes {result.file.name}"


def shards_summary(summary: "Summary") -> Iterator[str]:
    """Yield the contents of a folder of shards."""
    from fasticcl.shards.published_subset import subset_note

    manifest, counts = summary.manifest, summary.counts
    settings = ", ".join(f"{key} {value}" for key, value in manifest.settings.items())
    yield f"dataset   {manifest.dataset} ({settings})"
    if note := subset_note(manifest):
        yield f"subset    {note}"
    for split, info in summary.splits.items():
        heights, widths = ("{}/{}/{}".format(*extent) for extent in (info.heights, info.widths))
        yield (
            f"{split:<9} {info.images:,} images, {info.shards} shards, {info.bytes / 2**20:,.1f} MiB, "
            f"height {heights}, width {widths} pixels (min/median/max)"
        )
    groups = ", ".join(
        f"{classes:,} {name} ({images:,})" for name, (classes, images) in summary.groups.items()
    )
    yield f"classes   {len(counts):,}: {groups} training images"
    yield f"imbalance {summary.imbalance:,.1f} = {counts.max():,} / {counts.min():,}"
    yield from histogram(summary)
    if manifest.quarantined:
        yield f"skipped   {manifest.quarantined:,} unreadable images, listed in quarantine.jsonl"


def histogram(summary: "Summary") -> Iterator[str]:
    """Yield a histogram of the number of training images per class."""
    most = max(classes for _, _, classes in summary.histogram)
    yield f"{'images':>13}  classes"
    for first, last, classes in summary.histogram:
        span = f"{first:,}" if first == last else f"{first:,}-{last:,}"
        yield f"{span:>13}  {'█' * -(-classes * _BAR_WIDTH // most)} {classes:,}"
