"""Training and evaluation."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Unpack

from rich.console import Console

from fasticcl.config import Recipe
from fasticcl.config.layers import as_layer
from fasticcl.errors import UserError
from fasticcl.options import (
    ConfigFile,
    Option,
    Progress,
    Run,
    RunDevice,
    RunWorkers,
    Settings,
    TrainOptions,
    documented,
)
from fasticcl.resolve import configure
from fasticcl.system import rank_environment

if TYPE_CHECKING:
    from fasticcl.engine.results import Report
    from fasticcl.sweep.result import SweepResult

TrainedRun = Annotated[str | Path, Option("Folder of a run whose representation stage is finished.")]

SecondStage = Annotated[
    str | None,
    Option(
        "Method whose second stage is run, such as tau-norm, with the settings of its preset (see `fasticcl "
        "presets`). None: the second stage of the run.",
        metavar="NAME",
        complete="methods",
    ),
]


@documented
def train(
    dataset: Annotated[
        str | None, Option("Name of a dataset preset (see `fasticcl presets`).", complete="datasets")
    ] = None,
    *,
    method: Annotated[
        str | None,
        Option("Training method (see `fasticcl presets`). None: iccl.", metavar="NAME", complete="methods"),
    ] = None,
    recipe: Annotated[
        Recipe | None,
        Option(
            "Training schedule: preset (from the dataset preset, the same for all methods) or published "
            "(from the authors of the method, for this dataset). None: preset.",
            metavar="NAME",
            complete="recipes",
        ),
    ] = None,
    resume: Annotated[
        bool,
        Option("Continue the named run, or the newest one of the dataset. Only --workers may differ."),
    ] = False,
    config: ConfigFile = None,
    set: Settings = (),
    console: Progress = None,
    **options: Unpack[TrainOptions],
) -> "Report":
    """Train both stages on a dataset and return the report. `fasticcl train` has the same options.

    Options that are None keep the values of ``config`` or the presets.

    Raises:
        UserError: invalid input.
        Stopped: the run was stopped by SIGINT or SIGTERM. Its state is saved, and ``resume`` continues it.
        TrainingFailed: the loss is not finite, or too many images are unreadable.
    """
    resolved = configure(dataset, method=method, recipe=recipe, config=config, set=set, **options)
    if resume:
        changed = [name for name, value in options.items() if value is not None]
        others = {"method": method, "recipe": recipe, "config": config, "set": set}
        changed += [name for name, value in others.items() if value]
        for name in changed:
            if name not in ("name", "project", "workers"):
                raise UserError(
                    "--resume continues with the settings of the run. "
                    f"Leave out --{name.replace('_', '-')}, or start a new run."
                )
    from fasticcl.engine import trainer

    return _write_report(trainer.train(resolved, resume=resume, console=console), console)


@documented
def rebalance(
    run: TrainedRun,
    *,
    method: SecondStage = None,
    set: Settings = (),
    name: Annotated[
        str | None,
        Option(
            "Name of the new run. None: RUN-rebalance-N or, with --method, the method of the new run and N, "
            "such as iccl+tau-norm-1. N is the next free number."
        ),
    ] = None,
    device: RunDevice = None,
    workers: RunWorkers = None,
    console: Progress = None,
) -> "Report":
    """Repeat the rebalancing stage of a run (section 3.6) as a new run and return its report.

    With ``method``, the second stage of another method follows the representation stage instead, with the
    settings of its preset. ``method.name`` of the new run is then that method if the representation stage
    is the same (``tau-norm`` after a run of ``ce``), and otherwise both (``iccl+tau-norm``).

    The new run is written next to the old one, which is not changed. If the old run was moved out of a
    folder with the name of its dataset, the new one is written to PROJECT/DATASET. With unchanged settings,
    the new run reproduces the old one, bit for bit on a CPU.

    Raises:
        UserError: invalid input.
        Stopped: the run was stopped by SIGINT or SIGTERM. `fasticcl train --resume` continues it.
        TrainingFailed: the loss is not finite, or too many images are unreadable.
    """
    from fasticcl.engine.rebalance_run import rebalance_run

    settings = _stage_settings(set, device, workers)
    report = rebalance_run(Path(run), settings, method=method, name=name, console=console)
    return _write_report(report, console)


@documented
def sweep(
    run: TrainedRun,
    *,
    over: Annotated[
        Mapping[str, Any] | Iterable[str],
        Option(
            "Setting of the rebalancing stage and the values to try, as rebalance.key=value,value. "
            "Repeatable, to run every combination.",
            metavar="rebalance.KEY=V,V...",
        ),
    ] = (),
    method: SecondStage = None,
    holdout: Annotated[
        float | None,
        Option(
            "Training images withheld to choose the best settings: a fraction of each class if below 1, "
            "otherwise the number of images per class (at most half of a class). "
            "None: data.holdout of the run if set, otherwise 0.1.",
            metavar="SHARE",
        ),
    ] = None,
    criterion: Annotated[
        Literal["auto", "holdout", "simulated"],
        Option(
            "Accuracy that chooses the best settings. holdout: on the withheld images. simulated: on "
            "features drawn from a Gaussian of each class, with the covariance of all training features. "
            "auto: holdout if data.holdout of the run is set, otherwise simulated."
        ),
    ] = "auto",
    set: Settings = (),
    device: RunDevice = None,
    workers: RunWorkers = None,
    console: Progress = None,
) -> "SweepResult":
    """Run the rebalancing stage of a run with several settings.

    ``over`` may also be a mapping from settings to lists of values. The best settings are those with the
    highest mean per-class accuracy by ``criterion``. The evaluated split is never used to choose. Holdout
    images are training images that the stage withholds. If the representation stage was trained on them,
    their accuracy is too high and may not distinguish the settings. Train with ``data.holdout`` to withhold
    them from both stages. The sweep writes sweep.json, sweep.csv, sweep.svg and sweep.png (compare Figure 4
    of the paper) to RUN/sweep-N.

    Raises:
        UserError: invalid input.
        TrainingFailed: too many images are unreadable.
        KeyboardInterrupt: the sweep was interrupted. The results of the finished settings are written.
    """
    from fasticcl.sweep.sweep import sweep_run

    settings = _stage_settings(set, device, workers)
    return sweep_run(
        Path(run),
        over,
        method=method,
        holdout=holdout,
        criterion=criterion,
        settings=settings,
        console=console,
    )


@documented
def evaluate(run: Run, *, device: RunDevice = None, workers: RunWorkers = None) -> "Report":
    """Evaluate the saved weights of a finished run and return the report.

    Raises:
        UserError: the folder is not a finished run, or its shards are missing.
    """
    from fasticcl.engine.results import evaluate_run

    return evaluate_run(Path(run), device=device, workers=workers)


def _stage_settings(set: Settings, device: str | None, workers: int | None) -> dict[str, dict[str, Any]]:
    """Return the changed settings of a rebalancing stage. The options override ``set``."""
    settings = {section: dict(values) for section, values in as_layer(set).items()}
    for key, value in (("device", device), ("workers", workers)):
        if value is not None:
            settings.setdefault("engine", {})[key] = value
    return settings


def _write_report(report: "Report", console: Console | None) -> "Report":
    """Write the report page of a finished run if ``engine.report`` is set."""
    from fasticcl.engine.run.folder import RunFolder

    # The rank is from the environment, because the process group has ended.
    if rank_environment.rank() == 0 and RunFolder.open(report.run).config.engine.report:
        from fasticcl.report.report import report_finished_run  # imports matplotlib, which takes a second

        report_finished_run(report.run, console)
    return report
