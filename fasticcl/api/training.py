"""Training and evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasticcl.errors import UserError
from fasticcl.system import rank_environment

if TYPE_CHECKING:
    from rich.console import Console

    from fasticcl.config import Config
    from fasticcl.engine.results import Report
    from fasticcl.sweep.grid import Over
    from fasticcl.sweep.result import SweepResult

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
    "logger": "engine.logger",
    "report": "engine.report",
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
        assignments=() if isinstance(set, Mapping) else [set] if isinstance(set, str) else set,
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
    logger: str | Sequence[str] | None = None,
    report: bool | None = None,
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
        logger: tensorboard, wandb or both, where scalars go beside metrics.jsonl.
        report: write report.html when the run has ended; default: yes.
        cache: host or device, to decode every image once and keep all there; off; auto: for small images
            that fit, on the device.
        resume: continue the named run, or the newest of the dataset.
        fast_dev_run: take a few steps of every phase.
        config: TOML file with any part of the configuration.
        set: further settings, as {"section.key": value} or ["section.key=value"].
        console: a rich console that shows progress; None or a quiet one: warnings alone, on standard error.

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
        "logger": logger,
        "report": report,
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
    from fasticcl.engine import trainer

    return _reported(trainer.train(resolved, resume=resume, console=console), console)


def rebalance(
    run: str | Path,
    *,
    set: Mapping[str, Any] | Sequence[str] = (),
    name: str | None = None,
    device: str | None = None,
    workers: int | None = None,
    console: "Console | None" = None,
) -> "Report":
    """Run the rebalancing stage of a run again (section 3.6), into a run of its own.

    It lies beside the run; of one that was moved out of a folder of the dataset's name, in PROJECT/DATASET.
    The run itself stays as it is. With unchanged settings the new one is equal to it, on a CPU to the bit.

    Args:
        run: folder of a run whose representation stage is finished.
        set: settings of the stage, as {"rebalance.key": value} or ["rebalance.key=value"].
        name: name of the new run; None: RUN-rebalance-1, or the next free number.
        device: auto, cpu or gpu; None: as the run was started.
        workers: threads that decode and augment; None: as the run was started.
        console: a rich console that shows progress; None or a quiet one: warnings alone, on standard error.

    Raises:
        UserError: bad input, in one sentence.
        Stopped: Ctrl-C or SIGTERM came; the state is saved and ``fasticcl train --resume`` continues.
        TrainingFailed: the loss is not finite, or too many images can no longer be read.
    """
    from fasticcl.engine.rebalance_run import rebalance_run

    settings = _rebalancing(set, device, workers)
    return _reported(rebalance_run(Path(run), settings, name=name, console=console), console)


def sweep(
    run: str | Path,
    *,
    over: "Over",
    holdout: float | None = None,
    set: Mapping[str, Any] | Sequence[str] = (),
    device: str | None = None,
    workers: int | None = None,
    console: "Console | None" = None,
) -> "SweepResult":
    """Try settings of the rebalancing stage on the first stage of a run; the paper's Figure 4 and its like.

    Every combination of the values is tried. The best is chosen by the mean of the classes' accuracies on
    training images that are held back, never on the split that is reported. Where the representation stage
    has trained on these, their accuracy is too high and may not tell settings apart: train with
    ``data.holdout`` to hold them back from both stages. sweep.json, sweep.csv, sweep.svg and sweep.png are
    written into RUN/sweep-N.

    Args:
        run: folder of a run whose representation stage is finished.
        over: values, as {"rebalance.gamma": [0, 0.5, 1]} or ["rebalance.gamma=0,0.5,1"].
        holdout: images that are held back: below 1 a share of each class, from 1 on images per class, at
            most half of a class; None: those of ``data.holdout``, else a tenth; 0: none, and no choice.
        set: settings of the stage that are changed for all alike, as in `rebalance`.
        device: auto, cpu or gpu; None: as the run was started.
        workers: threads that decode and augment; None: as the run was started.
        console: a rich console that shows progress; None or a quiet one: warnings alone, on standard error.

    Raises:
        UserError: bad input, in one sentence.
        TrainingFailed: too many images can no longer be read.
        KeyboardInterrupt: Ctrl-C; settings that were finished are written.
    """
    from fasticcl.sweep.sweep import sweep_run

    settings = _rebalancing(set, device, workers)
    return sweep_run(Path(run), over, holdout=holdout, settings=settings, console=console)


def _rebalancing(
    set: Mapping[str, Any] | Sequence[str], device: str | None, workers: int | None
) -> "dict[str, dict[str, Any]]":
    """Return what is changed for a rebalancing stage, options on top."""
    from fasticcl.resolve import as_layer

    settings = {section: dict(values) for section, values in as_layer(set).items()}
    for key, value in (("device", device), ("workers", workers)):
        if value is not None:
            settings.setdefault("engine", {})[key] = value
    return settings


def _reported(report: "Report", console: "Console | None") -> "Report":
    """Write the report of a run that has ended, where it is wanted."""
    if rank_environment.rank() == 0:  # the ranks have parted
        from fasticcl.report.report import report_finished_run

        report_finished_run(report.run, console)
    return report


def evaluate(run: str | Path, *, device: str | None = None, workers: int | None = None) -> "Report":
    """Evaluate the saved weights of a finished run again and return the report.

    Raises:
        UserError: no finished run in this folder, or its shards are gone.
    """
    from fasticcl.engine.results import evaluate_run

    return evaluate_run(Path(run), device=device, workers=workers)
