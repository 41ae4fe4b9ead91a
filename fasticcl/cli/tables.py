"""Tables and lines that verbs print."""

import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from fasticcl.doctor.facts import Finding
    from fasticcl.engine.results import Report
    from fasticcl.export.exporter import ExportResult
    from fasticcl.shards.manifest import Manifest
    from fasticcl.shards.summary import Summary
    from fasticcl.sweep.result import SweepResult

_FEW_STEPS = 8  # an epoch of fewer is hardly one
_MOST = 20  # lines of one kind before the rest is only counted
_BAR = 40  # letters of the longest bar of a histogram


def some(title: str, lines: list[str]) -> Iterator[str]:
    """Yield the first of the lines, each after a title, and how many more there are."""
    yield from (title + line for line in lines[:_MOST])
    if len(lines) > _MOST:
        yield f"{title}{len(lines) - _MOST:,} more"


def accuracies(report: "Report") -> Table:
    """Return the table that a run and its evaluation end with."""
    from fasticcl.engine.evaluate import METRICS
    from fasticcl.engine.progress import percent
    from fasticcl.engine.results import TITLES

    whose = "its " if "after" in report.rows else ""  # of rebalancing, the line before
    titles = {**TITLES, "best": f"{whose}epoch {report.best_epoch}, best on these images"}
    table = Table("top-1 accuracy, %", title=f"Evaluated on {report.split}", title_justify="left")
    for column in ("overall", "many", "medium", "few"):
        table.add_column(column, justify="right")
    for name, metrics in report.rows.items():
        table.add_row(titles[name], *(percent(metrics[key]) for key in METRICS))
    return table


def swept(sweep: "SweepResult") -> Table:
    """Return the table of a sweep: both figures of every setting, the chosen one and the run's marked."""
    from fasticcl.engine.evaluate import METRICS
    from fasticcl.engine.progress import percent

    fewer = sweep.holdout.seen and sweep.holdout.images
    without = f",\nrebalanced without {fewer:,} held-back images that the run itself had" if fewer else ""
    table = Table(title=f"After rebalancing, top-1 accuracy in %, evaluated on {sweep.split}{without}")
    table.title_justify = "left"
    keys = [*sweep.entries[0].values]
    for key in keys:
        table.add_column(key.removeprefix("rebalance.").replace("_", "\n"), justify="right")
    for column in ("overall", "many", "medium", "few", "held back", ""):
        table.add_column(column, justify="right")
    before = [percent(sweep.before[key]) for key in METRICS]
    table.add_row("before", *[""] * (len(keys) - 1), *before, percent(sweep.holdout_before), "")
    for each in sweep.entries:
        figures = [percent(each.metrics[key]) for key in METRICS]
        marks = ["the run's setting"] * each.same_as_run + ["chosen"] * (each is sweep.best)
        values = map(str, each.values.values())
        table.add_row(*values, *figures, percent(each.holdout_accuracy), ", ".join(marks))
    return table


def chosen(sweep: "SweepResult") -> Iterator[str]:
    """Yield what the table of a sweep rests on, which setting is best and what makes a run of it."""
    holdout = sweep.holdout
    yield f"Figure: {sweep.folder / 'sweep.svg'}    data: sweep.json, sweep.csv"
    if not holdout.images:
        yield "No images were held back, so nothing is chosen; what is reported must not choose."
        return
    yield (
        f"held back: {holdout.images:,} training images of {holdout.classes:,} classes, which the stage "
        "left out; the mean of the classes' accuracies"
    )
    if holdout.seen:
        yield (
            "           The representation stage has trained on them, so this is too high, and good for "
            "comparison only; `fasticcl train --set data.holdout=0.1` keeps them from both stages"
        )
    if sweep.best is None:
        yield "The held-back images do not tell these settings apart, so nothing is chosen."
    else:
        values = ", ".join(f"{key}={value}" for key, value in sweep.best.values.items())
        yield f"Best on the held-back images: {values}"
        yield f"Next: {sweep.command}    a run of it"


def after_training(report: "Report") -> Iterator[str]:
    """Yield what to type next."""
    from fasticcl.engine.run.folder import free_name
    from fasticcl.resolve import resolve

    run = shlex.quote(str(report.run))
    runs, seed = report.run.parent, resolve(file=report.run / "config.toml").engine.seed
    name = free_name(runs, "again") if (runs / "again").exists() else "again"
    again = f"--name {name} --seed {seed + 1}"
    yield f"Next: fasticcl predict {run} IMAGE...    classes of pictures of your own"
    if "after" in report.rows:
        yield f"      fasticcl sweep {run} --over rebalance.gamma=0,0.5,1    other settings of rebalancing"
    yield f"      fasticcl train -c {run}/config.toml {again}    once more, with another seed"
    if runs.name == "demo" and not report.run.name.startswith("ce"):
        yield "      fasticcl train demo --method ce    something to compare with"
    yield f"      fasticcl report {run} RUN...    runs side by side"


def after_conversion(manifest: "Manifest", dest: Path) -> str:
    """Return what to type next; of few images with a batch and a learning rate that go with them."""
    words = ["fasticcl", "train", manifest.dataset, "--data", str(dest)]
    if ratio := manifest.settings.get("imbalance"):
        words += ["--imbalance", str(ratio)]
    images = sum(manifest.splits["train"].class_counts)
    if manifest.dataset == "folder":
        from fasticcl.resolve import resolve

        optim = resolve("folder").optim
        if images < _FEW_STEPS * optim.batch_size:
            batch_size = max(2, min(32, images // _FEW_STEPS))
            lr = optim.lr * batch_size / optim.batch_size
            words += ["--batch-size", str(batch_size), "--lr", f"{lr:.2g}"]
    return f"Next: {shlex.join(words)}"


def converted(manifest: "Manifest", dest: Path) -> Iterator[str]:
    """Yield what a conversion did."""
    for split, info in manifest.splits.items():
        size = sum(shard.bytes for shard in info.shards) / 2**20
        yield f"{split:<6} {sum(info.class_counts):>9,} images  {len(info.shards)} shards  {size:,.1f} MiB"
    if changed := sum(manifest.reencoded.values()):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(manifest.reencoded.items()))
        yield f"stored again: {changed:,} ({reasons})"
    if manifest.quarantined:
        yield f"unreadable, left out: {manifest.quarantined:,}, listed in {dest / 'quarantine.jsonl'}"


def exported(result: "ExportResult") -> Iterator[str]:
    """Yield what was written, what it takes and returns, and how far it is from PyTorch."""
    yield f"file    {result.file}, {result.file.stat().st_size / 2**20:,.1f} MiB"
    if result.input:
        yield f"input   {result.input}"
        yield f"output  {result.output}"
    yield (
        f"checked against PyTorch on random images: outputs differ by at most {result.difference:.1e} "
        "(absolute, or relative to the largest logit above 1)"
    )
    yield f"card    {result.card}, about {result.file.name}"


def shards(summary: "Summary") -> Iterator[str]:
    """Yield what a folder of shards holds."""
    manifest, counts = summary.manifest, summary.counts
    settings = ", ".join(f"{key} {value}" for key, value in manifest.settings.items())
    yield f"dataset   {manifest.dataset} ({settings})"
    for split, found in summary.splits.items():
        heights, widths = ("{}/{}/{}".format(*extent) for extent in (found.heights, found.widths))
        yield (
            f"{split:<9} {found.images:,} images, {found.shards} shards, {found.bytes / 2**20:,.1f} MiB, "
            f"height {heights}, width {widths} pixels (least/median/most)"
        )
    groups = ", ".join(
        f"{classes:,} {name} ({images:,})" for name, (classes, images) in summary.groups.items()
    )
    yield f"classes   {len(counts):,}: {groups} training images"
    yield f"imbalance {summary.imbalance:,.1f} = {counts.max():,} / {counts.min():,}"
    yield from histogram(summary)
    if manifest.quarantined:
        yield f"left out  {manifest.quarantined:,} unreadable images, listed in quarantine.jsonl"


def histogram(summary: "Summary") -> Iterator[str]:
    """Yield how many classes have how many training images."""
    most = max(classes for _, _, classes in summary.histogram)
    yield f"{'images':>13}  classes"
    for first, last, classes in summary.histogram:
        span = f"{first:,}" if first == last else f"{first:,}-{last:,}"
        yield f"{span:>13}  {'█' * -(-classes * _BAR // most)} {classes:,}"


def health(findings: "list[Finding]") -> Iterator[Text]:
    """Yield what doctor found, what is to be done under what is not well, and at last a count."""
    colors = {"ok": "green", "warning": "yellow", "error": "red"}
    width = max(len(finding.name) for finding in findings) + 2
    for finding in findings:
        status = (f"{finding.status:<9}", colors[finding.status])
        yield Text.assemble(status, f"{finding.name:<{width}}{finding.found}")
        if finding.advice:
            yield Text(f"{'':<{9 + width}}to do: {finding.advice}")
    counts = Counter(finding.status for finding in findings)
    yield Text(f"ok {counts['ok']}, warnings {counts['warning']}, errors {counts['error']}")


def layouts() -> Iterator[str]:
    """Yield what `fasticcl convert` knows, where to get it and what to type next."""
    from fasticcl.convert.layouts.registry import LAYOUTS

    for name, layout in LAYOUTS.items():
        yield name
        yield f"  what     {layout.description}"
        if layout.download:
            yield f"  get      {layout.download}"
        yield f"  licence  {layout.licence}"
        yield f"  next     {layout.example}"
