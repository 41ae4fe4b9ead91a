"""A sweep over settings of the rebalancing stage: train, evaluate, choose the best, write the files."""

import itertools
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from rich.console import Console
from torch import nn

from fasticcl.config import Config
from fasticcl.config.layers import Layer
from fasticcl.console import print_lines
from fasticcl.data.bad_samples import BadSamples
from fasticcl.engine.dataset import Dataset, open_dataset
from fasticcl.engine.evaluate import METRICS, accuracies, count_correct
from fasticcl.engine.loaders import build_loader, evaluation_split_batches
from fasticcl.engine.progress import Display
from fasticcl.engine.rebalance_run import FirstStage
from fasticcl.engine.run.folder import RunFolder
from fasticcl.engine.stages.stage import Stage
from fasticcl.engine.stages.training_features import TrainingFeatures
from fasticcl.errors import UserError
from fasticcl.files import write_file
from fasticcl.report.plotting import to_png, to_svg
from fasticcl.resolve import validate
from fasticcl.sweep.class_gaussians import ClassGaussians
from fasticcl.sweep.figure import sweep_figure
from fasticcl.sweep.grid import GridPoint, Over, build_grid
from fasticcl.sweep.holdout_set import HoldoutSet
from fasticcl.sweep.joint_readouts import read_out_jointly
from fasticcl.sweep.joint_training import build_stages, joint_key, train_jointly
from fasticcl.sweep.result import Criterion, Holdout, SweepEntry, SweepResult
from fasticcl.system import rank_environment
from fasticcl.system.machine import Machine, choose_machine

_DEFAULT_HOLDOUT = 0.1  # share of each class


def sweep_run(
    folder: Path,
    over: Over,
    *,
    method: str | None = None,
    holdout: float | None = None,
    criterion: Criterion | Literal["auto"] = "auto",
    settings: Layer | None = None,
    console: Console | None = None,
) -> SweepResult:
    """Rebalance the representation stage of a run with several settings and choose the best.

    The best settings are never chosen on the evaluated split. With a frozen encoder, combinations that draw
    the same images are trained jointly, and readouts share the features. The resulting weights are those of
    `rebalance_run` with the same holdout.

    Args:
        folder: the run folder. The sweep creates ``sweep-N`` in it.
        over: settings of ``rebalance`` and their values.
        method: method preset whose second stage replaces that of the run.
        holdout: training images withheld from rebalancing, as a share of each class if below 1, otherwise as
            the number of images per class. None uses the run's holdout (``data.holdout``), or else a tenth.
        criterion: the accuracy that chooses: ``holdout``, on the holdout images, or ``simulated``, on drawn
            features (see `ClassGaussians`). ``auto`` is ``holdout`` if the run has a holdout, because its
            representation stage has not seen these images, and otherwise ``simulated``.
        settings: other changes, common to all combinations.
        console: console for progress. None shows none.

    Raises:
        UserError: the folder holds no run or an unfinished representation stage, a setting does not belong to
            the stage, or the folder of the sweep cannot be created or written.
        TrainingFailed: too many images cannot be read.
        KeyboardInterrupt: Ctrl-C. The results of the finished combinations are already written.
    """
    if rank_environment.world_size() > 1:
        raise UserError("A sweep runs in a single process. Start it without torchrun.")
    run = RunFolder.open(folder)
    console = console or Console(quiet=True)

    def warn(text: str) -> None:
        print_lines(console, [text])

    share = _choose_holdout(run, holdout)
    shorten = run.config.engine.fast_dev_run
    grid = [
        replace(point, config=_with_holdout(point.config.shortened() if shorten else point.config, share))
        for point in build_grid(run, over, settings or {}, method)
    ]
    machine = _choose_machine(grid)
    dataset = open_dataset(grid[0].config, machine.gpu, require_cache=False)
    first = FirstStage.of(run, dataset, warn)
    machine.to_device(first.network.eval())
    holdout_set = HoldoutSet.readable(grid[0].config, dataset, machine, first.bad_rows, warn)
    chosen_by = _choose_criterion(run, criterion)
    sweep = _start(run, grid, dataset.evaluated.split, first, holdout_set, method, settings or {}, chosen_by)
    try:
        return _GridTrainer(grid, dataset, holdout_set, first, machine, console).train(sweep)
    finally:
        with suppress(OSError):
            sweep.folder.rmdir()  # succeeds only if the folder is empty because nothing was finished


def _choose_machine(grid: Sequence[GridPoint]) -> Machine:
    machine = choose_machine(grid[0].config.engine)
    if not any(point.config.rebalance.trained_epochs for point in grid):
        return replace(machine, mode="off")  # compiling would take longer than the readouts
    # CUDA graphs reuse the output buffers of one network, but joint training needs those of several.
    return replace(machine, mode="on") if machine.compiled else machine


def _choose_holdout(run: RunFolder, holdout: float | None) -> float:
    run_holdout = run.config.data.holdout
    if run_holdout and holdout is not None:
        raise UserError(
            f"{run.path} already has a holdout (data.holdout {run_holdout:g}). Leave out --holdout."
        )
    return run_holdout or (_DEFAULT_HOLDOUT if holdout is None else holdout)


def _choose_criterion(run: RunFolder, criterion: Criterion | Literal["auto"]) -> Criterion:
    if criterion == "auto":
        return "holdout" if run.config.data.holdout else "simulated"
    return criterion


def _with_holdout(config: Config, holdout: float) -> Config:
    values = config.model_dump()
    return validate({**values, "data": {**values["data"], "holdout": holdout}})


def _start(
    run: RunFolder,
    grid: Sequence[GridPoint],
    split: str,
    first: FirstStage,
    holdout_set: HoldoutSet,
    method: str | None,
    settings: Layer,
    criterion: Criterion,
) -> SweepResult:
    """Create the folder of the sweep and return a result without entries and simulated accuracies."""
    holdout = Holdout(
        grid[0].config.data.holdout,
        len(holdout_set.rows),
        holdout_set.num_classes,
        seen=not run.config.data.holdout,
    )
    network = first.network
    (holdout_before,) = holdout_set.accuracies(network.encoder, [network.classifier])
    return SweepResult(
        run=run.path,
        folder=_create_folder(run.path),
        split=split,
        holdout=holdout,
        method=method,
        fixed={f"rebalance.{key}": value for key, value in settings.get("rebalance", {}).items()},
        before={key: first.epochs[-1][key] for key in METRICS},
        holdout_before=holdout_before,
        criterion=criterion,
        simulated_before=None,
        entries=[],
        planned=len(grid),
    )


def _create_folder(run: Path) -> Path:
    """Create ``sweep-N`` in a run folder, with the first free number."""
    for number in itertools.count(1):
        folder = run / f"sweep-{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(
                f"Cannot create {folder}: {error.strerror}. Free disk space or make the run folder writable, "
                "then sweep again."
            ) from None
        return folder
    raise AssertionError  # unreachable: itertools.count is infinite


class _GridTrainer:
    """Trains and evaluates all points of a grid.

    Args:
        grid: the points.
        dataset: the opened splits.
        holdout_set: the holdout images.
        first: the representation stage from which all points continue.
        machine: the machine that trains.
        console: console for progress.
    """

    def __init__(
        self,
        grid: Sequence[GridPoint],
        dataset: Dataset,
        holdout_set: HoldoutSet,
        first: FirstStage,
        machine: Machine,
        console: Console,
    ) -> None:
        self.grid, self.dataset, self.holdout_set = grid, dataset, holdout_set
        self.first, self.machine, self.console = first, machine, console
        self.gaussians: ClassGaussians | None = None
        loader = build_loader(grid[0].config, dataset, machine, lambda text: print_lines(console, [text]))
        loader.bad_samples.merge(first.bad_rows)
        self.steps = loader.steps
        self.features = TrainingFeatures(
            grid[0].config, dataset, machine, first.network.encoder, loader.bad_samples
        )
        self.joint_groups: dict[tuple[object, ...], list[int]] = {}
        for number, point in enumerate(grid):
            self.joint_groups.setdefault(joint_key(point.config), []).append(number)

    def train(self, sweep: SweepResult) -> SweepResult:
        """Return the sweep with the entries of all points. Files are written after each joint training."""
        if sweep.criterion == "simulated":
            self.gaussians = ClassGaussians.fit(self.features, self.dataset.num_classes)
            (before,) = self._simulated_accuracies(self.gaussians, [self.first.network.classifier])
            sweep = replace(sweep, simulated_before=before)
        epochs = [
            self.grid[numbers[0]].config.rebalance.trained_epochs for numbers in self.joint_groups.values()
        ]
        finished: dict[int, SweepEntry] = {}
        with Display(self.console, {"rebalance": sum(epochs) * self.steps}) as display:
            try:
                for numbers in self.joint_groups.values():
                    finished.update(zip(numbers, self._train_jointly(numbers, display), strict=True))
                    sweep = replace(sweep, entries=[finished[number] for number in sorted(finished)])
                    _write(sweep)
            except KeyboardInterrupt:
                location = f", in {sweep.folder}" if finished else ""
                display.print(f"{len(finished)} of {len(self.grid)} settings are finished{location}")
                raise
        return sweep

    def _train_jointly(self, numbers: Sequence[int], display: Display) -> list[SweepEntry]:
        points = [self.grid[number] for number in numbers]
        config = points[0].config
        loader = build_loader(config, self.dataset, self.machine, display.print)
        loader.bad_samples.merge(self.features.bad_samples.rows)
        configs, counts = [point.config for point in points], self.dataset.train.counts
        common = (configs, self.first.network, self.machine, counts, self.features)
        if config.rebalance.readout != "none":
            return self._evaluate(points, read_out_jointly(*common), loader.bad_samples)
        stages = build_stages(*common)
        listed = ", ".join(str(number + 1) for number in numbers)
        title = f"setting{'s' * (len(numbers) > 1)} {listed} of {len(self.grid)}"
        train_jointly(stages, loader, display, title)
        return self._evaluate(points, stages, loader.bad_samples)

    def _evaluate(
        self, points: Sequence[GridPoint], stages: Sequence[Stage], bad_samples: BadSamples
    ) -> list[SweepEntry]:
        config, counts = points[0].config, self.dataset.train.counts
        classifiers = [stage.network.eval().classifier for stage in stages]
        encoder = stages[0].network.encoder
        held_back = self.holdout_set.accuracies(encoder, classifiers)
        gaussians = self.gaussians
        if gaussians is not None and not config.rebalance.keeps_encoder:
            features = TrainingFeatures(config, self.dataset, self.machine, encoder, bad_samples)
            gaussians = ClassGaussians.fit(features, len(counts))
        simulated = self._simulated_accuracies(gaussians, classifiers)
        batches = evaluation_split_batches(config, self.dataset, self.machine)
        right, seen = count_correct(encoder, classifiers, batches, len(counts), self.machine)
        entries = []
        for point, stage, correct, *scores in zip(points, stages, right, held_back, simulated, strict=True):
            metrics = accuracies(correct, seen, counts)
            if not _is_finite(stage):  # weights that are not finite predict the first class for all images
                metrics, scores = dict.fromkeys(METRICS), [None, None]
            entries.append(SweepEntry(point.values, point.same_as_run, metrics, *scores))
        return entries

    def _simulated_accuracies(
        self, gaussians: ClassGaussians | None, classifiers: Sequence[nn.Module]
    ) -> Sequence[float | None]:
        if gaussians is None:
            return [None] * len(classifiers)
        return gaussians.accuracies(classifiers, self.machine.device)


def _is_finite(stage: Stage) -> bool:
    return all(bool(value.isfinite().all()) for value in stage.network.parameters())


def _write(sweep: SweepResult) -> None:
    try:
        sweep.write()
        figure = sweep_figure(sweep)
        write_file(sweep.folder / "sweep.svg", to_svg(figure, "sweep"))
        write_file(sweep.folder / "sweep.png", to_png(figure))
    except OSError as error:
        raise UserError(
            f"Cannot write into {sweep.folder}: {error.strerror}. Free disk space, then sweep again."
        ) from None
