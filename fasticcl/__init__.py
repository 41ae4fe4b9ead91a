"""Long-tailed image classification with interpolative centroid contrastive learning, fed by NVIDIA DALI.

The functions here are the verbs of the command line, with the same names and defaults.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasticcl.errors import Stopped, TrainingFailed, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from fasticcl.bench.result import Result
    from fasticcl.config import Config
    from fasticcl.data.plan import Phase
    from fasticcl.data.shards import Manifest
    from fasticcl.data.show import Summary
    from fasticcl.data.verify import Findings
    from fasticcl.data.work import Progress
    from fasticcl.engine.training import Report

__version__ = "0.1.0"
__all__ = [
    "Stopped",
    "TrainingFailed",
    "UserError",
    "benchmark",
    "configure",
    "convert",
    "evaluate",
    "show",
    "train",
    "verify",
]

_OPTIONS = {
    "data": "data.dir",
    "imbalance": "data.imbalance",
    "epochs": "optim.epochs",
    "batch_size": "optim.batch_size",
    "lr": "optim.lr",
    "seed": "engine.seed",
    "device": "engine.device",
    "workers": "engine.workers",
    "name": "engine.name",
    "project": "engine.project",
    "save_every": "engine.save_every",
    "verify_reads": "data.verify_reads",
    "cache": "data.cache",
    "fast_dev_run": "engine.fast_dev_run",
}


def configure(
    dataset: str | None = None,
    *,
    method: str | None = None,
    config: str | Path | None = None,
    set: Mapping[str, Any] | Sequence[str] = (),
    **options: Any,
) -> "Config":
    """Return the configuration that `train` would run with the same arguments.

    Raises:
        UserError: an unknown name, or a value of the wrong kind.
    """
    from fasticcl.errors import nearest
    from fasticcl.resolve import resolve

    layer: dict[str, dict[str, Any]] = {}
    given = dict(set) if isinstance(set, Mapping) else {}
    for name, value in options.items():
        if name not in _OPTIONS:
            raise UserError(f"There is no option {name!r}. {nearest(name, _OPTIONS)}")
        if value is not None:
            given = {_OPTIONS[name]: str(value) if isinstance(value, Path) else value, **given}
    for path, value in given.items():
        section, _, key = path.partition(".")
        layer.setdefault(section, {})[key] = value
    return resolve(
        dataset,
        method=method,
        file=Path(config) if config else None,
        options=layer,
        assignments=() if isinstance(set, Mapping) else set,
    )


def train(
    dataset: str | None = None,
    *,
    method: str | None = None,
    data: str | Path | None = None,
    imbalance: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    workers: int | None = None,
    name: str | None = None,
    project: str | Path | None = None,
    save_every: str | int | None = None,
    verify_reads: bool | None = None,
    cache: str | None = None,
    resume: bool = False,
    fast_dev_run: bool | None = None,
    config: str | Path | None = None,
    set: Mapping[str, Any] | Sequence[str] = (),
    console: "Console | None" = None,
) -> "Report":
    """Train on a dataset and return the report; ``fasticcl train`` with the same options is the same call.

    What is None is as the preset of the dataset has it.

    Args:
        dataset: name of a dataset preset, see ``fasticcl presets``.
        method: iccl, ce, mixup or crt.
        data: folder of the shards.
        imbalance: imbalance ratio of CIFAR-LT (100, 50 or 10).
        epochs: epochs of the representation stage; T and the schedule follow.
        batch_size: pairs of images in a step.
        lr: base learning rate.
        seed: seed of weights and plan.
        device: auto, cpu or gpu.
        workers: threads that decode and augment.
        name: name of the run.
        project: folder of all runs.
        save_every: steps (500) or minutes (15m) between checkpoints, beside those at the ends of epochs.
        verify_reads: compare the checksum of every image that is read; default: yes.
        cache: host, to decode every image once and keep all; off; auto: host for small images that fit.
        resume: continue the named run, or the newest of the dataset.
        fast_dev_run: take a few steps of every phase.
        config: TOML file with any part of the configuration.
        set: further settings, as {"section.key": value} or ["section.key=value"].
        console: a rich console that shows progress; None: silent.

    Raises:
        UserError: bad input, in one sentence.
        Stopped: Ctrl-C or SIGTERM came; the state is saved and `resume` continues.
        TrainingFailed: the loss is not finite, or an image can no longer be read.
    """
    options = {
        "data": data,
        "imbalance": imbalance,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "device": device,
        "workers": workers,
        "name": name,
        "project": project,
        "save_every": save_every,
        "verify_reads": verify_reads,
        "cache": cache,
        "fast_dev_run": fast_dev_run,
    }
    resolved = configure(dataset, method=method, config=config, set=set, **options)
    if resume:
        changed = [
            key for key, value in options.items() if value is not None and key not in ("name", "project")
        ]
        changed += [key for key, value in (("method", method), ("config", config), ("set", set)) if value]
        if changed:
            raise UserError(
                f"--resume continues with the settings that the run was started with; "
                f"leave out --{changed[0].replace('_', '-')}, or start a new run."
            )
    from fasticcl.engine import training

    return training.train(resolved, resume=resume, console=console)


def evaluate(run: str | Path, *, device: str | None = None, workers: int | None = None) -> "Report":
    """Evaluate the saved weights of a finished run again and return the report.

    Raises:
        UserError: no finished run in this folder, or its shards are gone.
    """
    from fasticcl.engine import training

    return training.evaluate_run(Path(run), device=device, workers=workers)


def convert(
    layout: str,
    source: str | Path,
    dest: str | Path,
    *,
    lists: str | Path | None = None,
    imbalance: int | None = None,
    download: bool = False,
    val_fraction: float | None = None,
    long_tail: float | None = None,
    short_side: int | None = None,
    max_side: int | None = None,
    quality: int | None = None,
    shard_size: int = 2000,
    workers: int | None = None,
    max_corrupt: int = 0,
    limit: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    report: "Progress | None" = None,
    note: Callable[[str], None] | None = None,
) -> "Manifest | None":
    """Convert a dataset into shards and return their manifest.

    Args:
        layout: inat2018, imagenet-lt, cifar100-lt, cifar10-lt, folder or list; see ``fasticcl datasets``.
        source: the original dataset.
        dest: folder of the shards.
        lists: folder of the lists of imagenet-lt; None: ``source``.
        imbalance: imbalance ratio of CIFAR-LT, 100, 50 or 10; None: 100.
        download: get CIFAR with torchvision first.
        val_fraction: share of every class that is put aside where folder or list has no split.
        long_tail: imbalance ratio to which folder or list is cut, by the profile of section 4.1.
        short_side: short side in pixels above which images are made smaller.
        max_side: the same for the long side.
        quality: JPEG quality, 1 to 100, of images that are made smaller; None: 90.
        shard_size: images per shard.
        workers: threads; None: one per core.
        max_corrupt: unreadable images that are accepted.
        limit: most images a split, spread evenly; classes left without training images are left out.
        rank, world_size: which of several processes this is; they divide the shards. Rank 0 waits for
            the others and returns the manifest, the others return None.
        report: called with the images just done and the images in all.
        note: called with what a person should know of how the layout was read.

    Raises:
        UserError: bad input, in one sentence.
    """
    from fasticcl.data import convert as conversion
    from fasticcl.data.images import shrink_to
    from fasticcl.data.sources import layouts

    shrink = shrink_to(short_side, max_side, quality)
    found = layouts.read(
        layout,
        Path(source),
        long_tail=long_tail,
        limit=limit,
        lists=Path(lists) if lists else None,
        imbalance=imbalance,
        download=download or None,
        val_fraction=val_fraction,
    )
    for line in found.notes:
        if note:
            note(line)
    return conversion.convert(
        found,
        Path(dest),
        shard_size=shard_size,
        shrink=shrink,
        workers=workers,
        max_corrupt=max_corrupt,
        rank=rank,
        world_size=world_size,
        report=report,
    )


def verify(
    dest: str | Path, *, decode: bool = False, workers: int | None = None, report: "Progress | None" = None
) -> "Findings":
    """Check shards against their checksums, indexes and manifest, and return what was found.

    Args:
        dest: folder of the shards.
        decode: decode every image too.
        workers: threads; None: one per core.
        report: called with the images just checked and the images in all.

    Raises:
        UserError: there are no shards, or their manifest is damaged.
    """
    from fasticcl.data import verify as verification

    return verification.verify(Path(dest), decode=decode, workers=workers, report=report)


def show(
    dest: str | Path,
    *,
    samples: str | Path | None = None,
    seed: int | None = None,
    set: Mapping[str, Any] | Sequence[str] = (),
) -> "Summary":
    """Return what a folder of shards holds, in numbers.

    Args:
        dest: folder of the shards.
        samples: PNG file into which the first pairs of a run are drawn: both streams and their mix.
        seed: seed of that run.
        set: its further settings, as {"section.key": value} or ["section.key=value"].

    Raises:
        UserError: there are no shards, or bad input.
    """
    from fasticcl.data.show import summarise

    summary = summarise(Path(dest))
    if samples:
        from fasticcl.data.samples import write_samples

        config = configure(summary.manifest.dataset, data=dest, seed=seed, set=set)
        write_samples(config, Path(samples))
    return summary


def benchmark(
    what: str,
    dataset: str | None = None,
    *,
    data: str | Path | None = None,
    images: int | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    encoder: str | None = None,
    phase: "Phase | None" = None,
    device: str | None = None,
    workers: int | None = None,
    repeats: int = 5,
    seconds: float | None = None,
    config: str | Path | None = None,
    set: Mapping[str, Any] | Sequence[str] = (),
    say: Callable[[str], None] | None = None,
) -> "Result":
    """Measure how fast this machine is and return the figures; ``fasticcl bench`` is the same call.

    Args:
        what: plan, loader, step, train, convert or all.
        dataset: name of a dataset preset; None: that of the shards, else folder.
        data: folder of the shards, of convert a folder of images; None: that of ``config``, and without
            one images are made.
        images: how many are made.
        batch_size: pairs of images in a step.
        image_size: side that the network sees, in pixels.
        encoder: name of the CNN encoder.
        phase: warmup, interpolative or rebalance; None: interpolative.
        device: auto, cpu or gpu.
        workers: threads that decode, or convert.
        repeats: runs of each measurement.
        seconds: length of a run, after its warm-up; None: 1.5, with a GPU 3.
        config: TOML file with any part of the configuration.
        set: further settings, as {"section.key": value} or ["section.key=value"].
        say: called with what is being measured.

    Raises:
        UserError: bad input, in one sentence.
    """
    from fasticcl.bench import suite

    return suite.benchmark(
        what,
        dataset,
        data=Path(data) if data else None,
        images=images,
        batch_size=batch_size,
        image_size=image_size,
        encoder=encoder,
        phase=phase,
        device=device,
        workers=workers,
        repeats=repeats,
        seconds=seconds,
        config=Path(config) if config else None,
        assignments=[f"{key}={value}" for key, value in set.items()] if isinstance(set, Mapping) else set,
        say=say or suite.silent,
    )
