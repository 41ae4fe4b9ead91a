"""Long-tailed image classification with interpolative centroid contrastive learning, fed by NVIDIA DALI.

The functions here are the verbs of the command line, with the same names and defaults.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasticcl.errors import Stopped, TrainingFailed, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from fasticcl.config import Config
    from fasticcl.data.convert import Progress
    from fasticcl.data.shards import Manifest
    from fasticcl.engine.training import Report

__version__ = "0.1.0"
__all__ = ["Stopped", "TrainingFailed", "UserError", "configure", "convert", "evaluate", "train"]

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
    shard_size: int = 2000,
    workers: int | None = None,
    max_corrupt: int = 0,
    report: "Progress | None" = None,
) -> "Manifest":
    """Convert a dataset into shards and return their manifest.

    Args:
        layout: ``folder``: train/CLASS/image and val/CLASS/image (or test/).
        source: the original dataset.
        dest: folder of the shards.
        shard_size: images per shard.
        workers: threads; None: one per core.
        max_corrupt: unreadable images that are accepted.
        report: called with the images just done and the images in all.

    Raises:
        UserError: bad input, in one sentence.
    """
    from fasticcl.data import convert as conversion
    from fasticcl.data.sources import folder
    from fasticcl.errors import nearest

    layouts = {"folder": folder.read}
    if layout not in layouts:
        raise UserError(f"There is no layout {layout!r}. {nearest(layout, layouts)}")
    return conversion.convert(
        layouts[layout](Path(source)),
        Path(dest),
        shard_size=shard_size,
        workers=workers,
        max_corrupt=max_corrupt,
        report=report,
    )
