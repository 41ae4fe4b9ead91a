"""Training and accuracy sections of a model card, from the records of the run."""

from collections.abc import Iterator
from statistics import median

import torch

from fasticcl.config import Config, Rebalance
from fasticcl.config.method_summary import method_summary, readout_name
from fasticcl.engine.evaluate import METRICS, Metrics
from fasticcl.engine.progress import percent
from fasticcl.engine.results import row_titles
from fasticcl.engine.run.weights import WEIGHTS, Description, Model
from fasticcl.engine.run.writer import PACKAGES
from fasticcl.errors import UserError
from fasticcl.report.run_history import RunHistory, read_history
from fasticcl.shards.manifest import Manifest
from fasticcl.version import __version__


def read_run_record(model: Model) -> RunHistory | None:
    """Return the records of the run that produced a model, or None if there are none."""
    # Weights in a file of another name may not be those that the records describe.
    if model.run is None or model.path.name != WEIGHTS:
        return None
    try:
        return read_history(model.run)
    except UserError:
        return None


def training_section(description: Description, record: RunHistory | None) -> Iterator[str]:
    """Yield method, schedule, settings, speed and environment as Markdown."""
    if record is None:
        yield (
            f"Method `{description.method}`. Details are not known because the file was exported without "
            "the records of its run."
        )
    else:
        yield from _settings(record)
        yield ""
        speed = median(epoch["throughput/images_per_sec"] for epoch in record.stage("representation"))
        yield (
            f"The first stage processed {speed:,.0f} images per second (median of its epochs). "
            f"{record.unreadable_images:,} unreadable images were replaced by others of the same class."
        )
        if record.seed_note:
            yield record.seed_note
    yield ""
    if record and record.environments:
        environment = record.environments[-1]
        versions = ", ".join(
            f"{name} {environment[name]}" for name in ("fasticcl", *PACKAGES) if environment.get(name)
        )
        yield f"Trained on: {environment['machine']}. Versions: {versions}, Python {environment['python']}."
    else:
        yield "The machine and the package versions used for training are not recorded."
    yield f"Exported with fasticcl {__version__} and torch {torch.__version__}."


def _settings(record: RunHistory) -> Iterator[str]:
    config = record.effective_config
    optim = config.optim
    interpolates = config.method.interpolative_weight > 0
    cooldown = f", cooldown {config.method.cooldown_epochs}" if config.method.cooldown_epochs else ""
    warmup = f" (warm-up T = {config.method.warmup_epochs}{cooldown})" if interpolates else ""
    yield (
        f"Method `{config.method.name}`: {optim.epochs} epochs of representation learning{warmup}, "
        f"{_second_stage(config.rebalance)}, batch size {optim.batch_size}, learning rate {optim.lr:g}, "
        f"seed {config.engine.seed}."
    )
    if parts := method_summary(config):
        yield f"Parts of the method: {'; '.join(parts)}."
    yield ""
    presets = f"the presets `{config.data.dataset}` and `{config.method.name}`"
    presets += " with its published schedule" * (optim.recipe == "published")
    if not record.differences:
        yield f"All settings are those of {presets}."
        return
    yield f"Settings that differ from {presets}:"
    yield ""
    yield "| setting | value | preset |"
    yield "|---|---|---|"
    for key, (preset, value) in record.differences.items():
        yield f"| `{key}` | {value} | {preset} |"


def _second_stage(rebalance: Rebalance) -> str:
    if rebalance.readout != "none":
        return f"then the readout {readout_name(rebalance)} without training"
    if rebalance.epochs:
        return f"{rebalance.epochs} epochs of rebalancing (encoder {rebalance.encoder})"
    return "no rebalancing"


def exported_accuracies(record: RunHistory | None, best: bool) -> Metrics:
    """Return the accuracies of the exported weights, or an empty mapping if they are not known."""
    return record.accuracies[_exported_row(record, best)][1] if record else {}


def _exported_row(record: RunHistory, best: bool) -> str:
    if best and "best" in record.accuracies:
        return "best"
    return "after" if "after" in record.accuracies else "last"


def accuracy_section(description: Description, record: RunHistory | None, best: bool) -> Iterator[str]:
    """Yield the accuracies of the run as Markdown, with the row of the exported weights marked."""
    if record is None:
        yield "The accuracies are not known because the file was exported without the records of its run."
        return
    yield f"Top-1 accuracy in % on {_evaluated_images(record.config, description.train_counts)}:"
    yield ""
    yield "| | overall | many | medium | few |"
    yield "|---|---:|---:|---:|---:|"
    for name, (epoch, metrics) in record.accuracies.items():
        title = _title(record, name, epoch)
        title = f"**{title}: this file**" if name == _exported_row(record, best) else title
        yield f"| {title} | " + " | ".join(percent(metrics[key]) for key in METRICS) + " |"
    yield ""
    if record.subset_note:
        yield record.subset_note
    yield (
        "Overall accuracy is the share of correctly classified images. The other columns are means of "
        "per-class accuracies."
    )
    if _exported_row(record, best) == "best":
        yield (
            "The best epoch was chosen by its accuracy on these images, so its accuracy on other images is "
            "probably lower."
        )


def _title(record: RunHistory, name: str, epoch: int) -> str:
    titles = row_titles(record.accuracies)
    if name == "after" and record.has_readout:
        return titles[name]
    suffix = ", last epoch" if name in ("before", "after") else ""
    return f"{titles[name]}{suffix} ({epoch})" + (", chosen on these images" if name == "best" else "")


def _evaluated_images(config: Config, train_counts: list[int]) -> str:
    """Return a description of the evaluated split, with its size if the shards are still available."""
    if config.engine.fast_dev_run:
        return "a few images only, because this was a test run (fast_dev_run)"
    try:
        manifest = Manifest.read(config.data.dir)
    except UserError:
        manifest = None
    splits = manifest.splits if manifest else {}
    if "train" not in splits or splits["train"].class_counts != train_counts:
        splits = {}  # the shards were removed or replaced by others
    candidates = ("test", "val") if config.data.eval_split == "auto" else (config.data.eval_split,)
    for split in candidates:
        if split in splits:
            return f"the {sum(splits[split].class_counts):,} images of the {split} split"
    return f"the {' split, or if there is none the '.join(candidates)} split"
