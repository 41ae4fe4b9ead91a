"""What a card tells of the run that a model came from: how it was trained, and its accuracies."""

from collections.abc import Iterator
from statistics import median

import torch

from fasticcl.config import Config
from fasticcl.engine.evaluate import METRICS, Metrics
from fasticcl.engine.progress import percent
from fasticcl.engine.results import TITLES
from fasticcl.engine.run.environment import PACKAGES
from fasticcl.engine.run.weights import WEIGHTS, Description, Model
from fasticcl.errors import UserError
from fasticcl.report.run_history import RunHistory, read_history
from fasticcl.shards.reader import Manifest


def record_of(model: Model) -> RunHistory | None:
    """Return the records that are about a model's weights; None where there are none, or no longer."""
    # A file of another name may hold other weights than those the records are about.
    if model.run is None or model.path.name != WEIGHTS:
        return None
    try:
        return read_history(model.run)
    except UserError:
        return None


def training(description: Description, record: RunHistory | None) -> Iterator[str]:
    """Yield method, schedule, settings and speed, as Markdown."""
    if record is None:
        yield f"Method `{description.method}`; the file came without the records of its run, which tell more."
    else:
        yield from _settings(record)
        yield ""
        speed = median(epoch["throughput/images_per_sec"] for epoch in record.stage("representation"))
        bad = record.epochs[-1]["data/bad_samples"]
        yield (
            f"The first stage took {speed:,.0f} images a second (median of its epochs); "
            f"{bad:,} unreadable images were replaced by others of their class."
        )
    yield ""
    if record and record.environments:
        made = record.environments[-1]
        versions = ", ".join(f"{name} {made[name]}" for name in ("fasticcl", *PACKAGES) if made.get(name))
        yield f"Trained on: {made['machine']}; {versions}, Python {made['python']}."
    else:
        yield "The machine and the versions that it was trained with are not recorded."
    yield f"Exported with fasticcl {_version()} and torch {torch.__version__}."


def _settings(record: RunHistory) -> Iterator[str]:
    config = record.config.shortened() if record.config.engine.fast_dev_run else record.config
    optim, second = config.optim, config.rebalance
    rebalanced = (
        f"{second.epochs} epochs of rebalancing (encoder {second.encoder})"
        if second.epochs
        else "no rebalancing"
    )
    yield (
        f"Method `{config.method.name}`: {optim.epochs} epochs of representation learning (warm-up "
        f"T = {config.method.warmup_epochs}), {rebalanced}; batches of {optim.batch_size}, "
        f"learning rate {optim.lr:g}, seed {config.engine.seed}."
    )
    yield ""
    if not record.differences:
        yield f"All settings are those of the presets `{config.data.dataset}` and `{config.method.name}`."
        return
    yield f"Settings that differ from the presets `{config.data.dataset}` and `{config.method.name}`:"
    yield ""
    yield "| setting | here | preset |"
    yield "|---|---|---|"
    for key, (preset, here) in record.differences.items():
        yield f"| `{key}` | {here} | {preset} |"


def achieved(record: RunHistory | None, best: bool) -> Metrics:
    """Return the accuracies of the exported weights; nothing, if they are not known."""
    return record.accuracies[_row(record, best)][1] if record else {}


def _row(record: RunHistory, best: bool) -> str:
    return "best" if best else "after" if "after" in record.accuracies else "last"


def accuracy(description: Description, record: RunHistory | None, best: bool) -> Iterator[str]:
    """Yield the accuracies of the run, those of the exported weights marked, as Markdown."""
    if record is None:
        yield "The accuracies are not known: the file came without the records of its run."
        return
    yield f"Top-1 accuracy in %, on {_evaluated(record.config, description.train_counts)}:"
    yield ""
    yield "| | overall | many | medium | few |"
    yield "|---|---:|---:|---:|---:|"
    for name, (epoch, metrics) in record.accuracies.items():
        of_which = ", last epoch" if name in ("before", "after") else ""
        title = f"{TITLES[name]}{of_which} ({epoch})" + (", chosen on these images" if name == "best" else "")
        title = f"**{title}: this file**" if name == _row(record, best) else title
        yield f"| {title} | " + " | ".join(percent(metrics[key]) for key in METRICS) + " |"
    yield ""
    yield "Overall is the share of images that are right; the others are means of their classes' accuracies."
    if best:
        yield (
            "The epoch was chosen for its accuracy on the very images that it is evaluated on, so its "
            "figures are too good for other images."
        )


def _evaluated(config: Config, train_counts: list[int]) -> str:
    """Return what was evaluated, in a few words; its size, if the shards are still those of the run."""
    if config.engine.fast_dev_run:
        return "a few images only, since this was a trial (fast_dev_run)"
    try:
        manifest = Manifest.read(config.data.dir)
    except UserError:
        manifest = None
    splits = manifest.splits if manifest else {}
    if "train" not in splits or splits["train"].class_counts != train_counts:
        splits = {}  # the shards are gone, or are others
    wanted = ("test", "val") if config.data.eval_split == "auto" else (config.data.eval_split,)
    for split in wanted:
        if split in splits:
            return f"the {sum(splits[split].class_counts):,} images of the {split} split"
    return f"the {' split, or where there is none the '.join(wanted)} split"


def _version() -> str:
    from fasticcl.version import __version__

    return __version__
