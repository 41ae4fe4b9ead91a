"""A sweep of the rebalancing stage: train every setting, evaluate, choose, write."""

import itertools
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from fasticcl.config import Config
from fasticcl.console import print_lines
from fasticcl.engine.dataset import Dataset, open_dataset
from fasticcl.engine.evaluate import METRICS, Metrics, accuracies, count_correct
from fasticcl.engine.loaders import build_loader, evaluation_split_batches
from fasticcl.engine.progress import Display
from fasticcl.engine.rebalance_run import FirstStage
from fasticcl.engine.run.folder import Run
from fasticcl.engine.stages.rebalance import Rebalancing
from fasticcl.errors import UserError
from fasticcl.files import write_file
from fasticcl.report.drawing import png, svg
from fasticcl.resolve import Layer, validate
from fasticcl.sweep.figure import draw
from fasticcl.sweep.grid import Over, Setting, grid
from fasticcl.sweep.holdout_set import HeldBack
from fasticcl.sweep.joint_training import build_stages, together, train_together
from fasticcl.sweep.outcome import Holdout, Sweep, Tried
from fasticcl.system import rank_environment
from fasticcl.system.machine import Machine, choose_machine

_SHARE = 0.1  # held back where nobody says how much


def sweep_run(
    folder: Path,
    over: Over,
    *,
    holdout: float | None = None,
    settings: Layer | None = None,
    console: Console | None = None,
) -> Sweep:
    """Try settings of the rebalancing stage on the first stage of a run, and choose one.

    The choice is made on training images that are held back, never on the split that is reported. With a
    frozen encoder, settings that see the same images train side by side; each ends with the weights that
    `rebalance_run` gives it when as much is held back.

    Args:
        folder: the run folder; ``sweep-N`` is made inside it.
        over: keys of ``rebalance`` and their values.
        holdout: training images that the sweep leaves out: a share of each class, or from 1 on images per
            class; None: those that the run has held back (``data.holdout``), else a tenth. 0 chooses nothing.
        settings: what else is changed, for all settings alike.
        console: where progress is shown; None: nowhere.

    Raises:
        UserError: no run, an unfinished first stage, a setting of something else, or a folder that
            cannot be made or written.
        TrainingFailed: too many images cannot be read.
        KeyboardInterrupt: Ctrl-C; settings that were finished are written.
    """
    if rank_environment.world_size() > 1:
        raise UserError("A sweep runs in one process; start it without torchrun.")
    run = Run.open(folder)
    console = console or Console(quiet=True)
    run.files.warn = lambda text: print_lines(console, [text])
    kept = _holdout(run, holdout)
    shorten = run.config.engine.fast_dev_run
    tries = [
        replace(each, config=_with_holdout(each.config.shortened() if shorten else each.config, kept))
        for each in grid(run, over, settings or {})
    ]
    machine = choose_machine(tries[0].config.engine)
    if machine.compiled:
        # CUDA graphs keep the outputs of one network, not of several; no step is taken as a whole here.
        machine = replace(machine, mode="on")
    dataset = open_dataset(tries[0].config, machine.gpu, require_cache=False)
    first = FirstStage.of(run, dataset)
    machine.to_device(first.network.eval())
    held_back = HeldBack.readable(tries[0].config, dataset, machine, first.bad_rows, run.files.warn)
    sweep = _begin(run, tries, dataset.evaluated.split, first, held_back, settings or {})
    try:
        return _Work(tries, dataset, held_back, first, machine, console).finish(sweep)
    finally:
        with suppress(OSError):
            sweep.folder.rmdir()  # only where it is empty: no setting was finished


def _holdout(run: Run, holdout: float | None) -> float:
    own = run.config.data.holdout
    if own and holdout is not None:
        raise UserError(
            f"{run.folder} has held back images of its own (data.holdout {own:g}); leave out --holdout."
        )
    return own or (_SHARE if holdout is None else holdout)


def _with_holdout(config: Config, holdout: float) -> Config:
    values = config.model_dump()
    return validate({**values, "data": {**values["data"], "holdout": holdout}})


def _begin(
    run: Run,
    tries: Sequence[Setting],
    split: str,
    first: FirstStage,
    held_back: HeldBack,
    settings: Layer,
) -> Sweep:
    """Return a sweep in which nothing is tried yet, with a folder of its own."""
    holdout = Holdout(
        tries[0].config.data.holdout,
        len(held_back.rows),
        held_back.classes,
        seen=not run.config.data.holdout,
    )
    before = {key: first.epochs[-1][key] for key in METRICS}
    network = first.network
    (on_held_back,) = held_back.accuracies(network.encoder, [network.classifier])
    fixed = {f"rebalance.{key}": value for key, value in settings.get("rebalance", {}).items()}
    place = _make_folder(run.folder)
    return Sweep(run.folder, place, split, holdout, fixed, before, on_held_back, [], len(tries))


def _make_folder(run: Path) -> Path:
    """Make ``sweep-N`` in a run folder, with a number that no other sweep has, be it at work or done."""
    for number in itertools.count(1):
        folder = run / f"sweep-{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(
                f"Cannot make {folder}: {error.strerror}; make room or let it be written, then sweep again."
            ) from None
        return folder
    raise AssertionError  # counting does not end


class _Work:
    """What every group of settings is trained with.

    Args:
        tries: the grid.
        dataset: the opened splits.
        held_back: the images that settings are chosen on.
        first: the first stage that all go on from.
        machine: where they run.
        console: where progress is shown.
    """

    def __init__(
        self,
        tries: Sequence[Setting],
        dataset: Dataset,
        held_back: HeldBack,
        first: FirstStage,
        machine: Machine,
        console: Console,
    ) -> None:
        self.tries, self.dataset, self.first, self.machine = tries, dataset, first, machine
        self.held_back, self.console = held_back, console
        self.groups: dict[tuple[object, ...], list[int]] = {}
        for number, each in enumerate(tries):
            self.groups.setdefault(together(each.config), []).append(number)

    def finish(self, sweep: Sweep) -> Sweep:
        """Return the sweep with every setting tried; after each group of them the files are written."""
        steps = build_loader(self.tries[0].config, self.dataset, self.machine).steps
        epochs = [self.tries[numbers[0]].config.rebalance.epochs for numbers in self.groups.values()]
        done: dict[int, Tried] = {}
        with Display(self.console, {"rebalance": sum(epochs) * steps}) as display:
            try:
                for numbers in self.groups.values():
                    done.update(zip(numbers, self._try(numbers, display), strict=True))
                    sweep = replace(sweep, tried=[done[number] for number in sorted(done)])
                    _write(sweep)
            except KeyboardInterrupt:
                where = f", in {sweep.folder}" if done else ""
                display.print(f"{len(done)} of {len(self.tries)} settings are finished{where}")
                raise
        return sweep

    def _try(self, numbers: Sequence[int], display: Display) -> list[Tried]:
        settings = [self.tries[number] for number in numbers]
        config = settings[0].config
        loader = build_loader(config, self.dataset, self.machine, display.print)
        loader.bad_samples.merge(self.first.bad_rows)
        stages = build_stages([each.config for each in settings], self.first.network, self.machine)
        named = ", ".join(str(number + 1) for number in numbers)
        title = f"setting{'s' * (len(numbers) > 1)} {named} of {len(self.tries)}"
        train_together(stages, loader, display, title)
        return [*map(_tried, settings, *self._accuracies(config, stages), map(_is_finite, stages))]

    def _accuracies(
        self, config: Config, stages: Sequence[Rebalancing]
    ) -> tuple[list[Metrics], list[float | None]]:
        """Return what each stage's network reaches on the evaluated split, and on the held-back images."""
        encoder = stages[0].network.eval().encoder
        classifiers = [stage.network.classifier for stage in stages]
        held_back = self.held_back.accuracies(encoder, classifiers)
        counts = self.dataset.train.counts
        batches = evaluation_split_batches(config, self.dataset, self.machine)
        right, seen = count_correct(encoder, classifiers, batches, len(counts), self.machine)
        return [accuracies(each, seen, counts) for each in right], held_back


def _is_finite(stage: Rebalancing) -> bool:
    return all(bool(value.isfinite().all()) for value in stage.network.parameters())


def _tried(setting: Setting, metrics: Metrics, held_back: float | None, finite: bool) -> Tried:
    if not finite:  # such weights predict the first class, which is no accuracy
        metrics, held_back = dict.fromkeys(METRICS), None
    return Tried(setting.values, setting.own, metrics, held_back)


def _write(sweep: Sweep) -> None:
    try:
        sweep.write()
        figure = draw(sweep)
        write_file(sweep.folder / "sweep.svg", svg(figure, "sweep"))
        write_file(sweep.folder / "sweep.png", png(figure))
    except OSError as error:
        raise UserError(
            f"Cannot write into {sweep.folder}: {error.strerror}; make room, then sweep again."
        ) from None
