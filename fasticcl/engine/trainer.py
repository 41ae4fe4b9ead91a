"""Train a run from its configuration to its report: data, stages, weights."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from rich.console import Console

from fasticcl.config import Config
from fasticcl.console import print_lines
from fasticcl.data.device_loader import DeviceLoader
from fasticcl.data.evaluation_loader import EvaluationLoader
from fasticcl.data.loader import Loader
from fasticcl.engine.banner import banner, phase_epochs, resume_line
from fasticcl.engine.captured_step import captured_training
from fasticcl.engine.compile_trial import ModeChoice, RemainingSteps, choose_mode
from fasticcl.engine.dataset import Dataset, open_dataset
from fasticcl.engine.evaluate import Metrics, evaluate
from fasticcl.engine.loaders import build_loader, evaluation_split_batches
from fasticcl.engine.loggers import Loggers, import_loggers
from fasticcl.engine.loop import Loop
from fasticcl.engine.progress import Display, phase_costs
from fasticcl.engine.results import Report, report_of
from fasticcl.engine.run.checkpoint import Checkpoint
from fasticcl.engine.run.folder import RunFolder
from fasticcl.engine.run.seed_run import load_seed_network
from fasticcl.engine.run.weights import Description
from fasticcl.engine.run.writer import RunWriter
from fasticcl.engine.stages.first_stage import build_first_stage
from fasticcl.engine.stages.m2m import MajorToMinor
from fasticcl.engine.stages.representation import Representation
from fasticcl.engine.stages.second_stage import build_second_stage, check_second_stage
from fasticcl.engine.stages.stage import Learn, Stage, TrainingStage, learn
from fasticcl.engine.stages.training_features import TrainingFeatures
from fasticcl.errors import TrainingFailed, UserError
from fasticcl.shards.published_subset import subset_note
from fasticcl.system import rank_environment
from fasticcl.system.compile_cache import use_persistent_cache
from fasticcl.system.machine import Machine, choose_machine


def train(config: Config, *, resume: bool = False, console: Console | None = None) -> Report:
    """Train all stages into a run folder and return the report.

    Args:
        config: the resolved configuration.
        resume: if True, continue the run that ``config`` names, or else the newest one, with its own
            settings, but with ``engine.workers`` of ``config`` if it is set.
        console: shows the progress, or None for no output.

    Raises:
        UserError: invalid input.
        Stopped: a signal stopped the run, which can be resumed.
        TrainingFailed: a loss is not finite, too many images cannot be read, or another rank has exited.
    """
    folder = _run_to_continue(config, resume)
    machine = choose_machine((folder.config if folder else config).engine)
    with machine.ranks.report_lost_rank():
        return _train(config, folder, machine, console)


def _train(config: Config, folder: RunFolder | None, machine: Machine, console: Console | None) -> Report:
    ranks = machine.ranks
    # With several machines, torchrun reports the restart on only one of them.
    if any(ranks.all_gather_object(folder is not None)) and folder is None:
        folder = RunFolder.newest(config.engine.project, config.data.dataset, config.engine.name)
    is_new = folder is None
    config = folder.config if folder else config
    console = console if console and ranks.is_main else Console(quiet=True)
    # Rank 0 first, because it may have to create the demo's shards.
    ranks.run_on_main(lambda: open_dataset(config, machine.gpu, is_new) and None)
    dataset = open_dataset(config, machine.gpu, is_new)
    import_loggers(config.engine.logger)
    warn = _warner(ranks.rank, console)

    def open_run(folder: RunFolder) -> RunWriter:
        run = RunWriter(folder, dataset.train.manifest.source_sha256, ranks, warn)
        stack.enter_context(run.locked())
        return run

    with ExitStack() as stack:
        run, checkpoint = None, None
        if folder:  # the remaining steps of a resumed run determine its compile mode
            run = open_run(folder)
            checkpoint = run.resume()
            _check_same_position(run, checkpoint)
            if folder.finished:
                print_lines(console, [f"run      {folder.path} is already finished"])
                return report_of(run, dataset)
        prepared = _prepare(config, dataset, machine, warn, checkpoint)
        # The folder is created last, so invalid input does not leave an empty run behind.
        run = run or open_run(RunFolder(ranks.run_on_main(lambda: RunFolder.create(config).path), config))
        run.metrics.on_record = prepared.loggers.log
        prepared.loader.bad_samples.merge(checkpoint.bad_rows if checkpoint else [])
        run.record_environment(prepared.machine, subset_note(dataset.train.manifest))
        print_lines(console, _opening(prepared, run, checkpoint, is_new))
        _fit(prepared, run, checkpoint, console)
        return report_of(run, dataset)


@dataclass(frozen=True)
class PreparedRun:
    """All objects that training needs, except the run folder."""

    config: Config
    """Shortened with ``fast_dev_run``."""
    dataset: Dataset
    machine: Machine
    loader: Loader | DeviceLoader
    learn: Learn
    """Takes a training step on a batch of the loader."""
    loggers: Loggers
    first: TrainingStage
    choice: ModeChoice
    """The compile mode and the reason for it."""

    def evaluate(self, stage: Stage) -> Metrics:
        """Return the accuracies of a stage's network."""
        # A few batches of ``fast_dev_run`` do not justify compilation.
        machine = replace(self.machine, mode="off") if self.config.engine.fast_dev_run else self.machine
        return evaluate(stage.network, self.evaluation_batches, self.dataset.train.counts, machine)

    def second_stage(self) -> Stage:
        """Return the stage that continues from the representation stage."""
        config, network, machine = self.config, self.first.network, self.machine
        bad_samples = self.loader.bad_samples
        features = TrainingFeatures(config, self.dataset, machine, network.encoder, bad_samples)
        return build_second_stage(config, network, machine, self.dataset.train.counts, features)

    @cached_property
    def evaluation_batches(self) -> EvaluationLoader:
        """Return this rank's batches of the evaluated split, from one pipeline for all evaluations."""
        return evaluation_split_batches(self.config, self.dataset, self.machine, repeat=True)


def _prepare(
    config: Config,
    dataset: Dataset,
    machine: Machine,
    warn: Callable[[str], None],
    checkpoint: Checkpoint | None,
) -> PreparedRun:
    shortened = config.shortened() if config.engine.fast_dev_run else config
    loader, step = build_loader(shortened, dataset, machine, warn), learn
    torch.manual_seed(config.engine.seed)
    if machine.gpu is not None:
        torch.backends.cudnn.benchmark = True
    remaining = RemainingSteps.of(shortened, loader.steps, checkpoint)
    choice = choose_mode(config, dataset.num_classes, machine, remaining)
    machine = choice.apply(machine)
    problem = use_persistent_cache() if machine.compiled and machine.gpu is not None else ""
    if problem and machine.ranks.is_main:
        warn(f"warning  compiled code is not kept for later runs: {problem}")
    if machine.mode == "captured":
        loader, step = captured_training(loader, machine, warn)
    first = build_first_stage(shortened, dataset.num_classes, machine, dataset.train.counts)
    if isinstance(first, MajorToMinor) and config.method.seed_run and checkpoint is None:
        first.use_seed_network(load_seed_network(config, dataset.train.manifest.classes))
    check_second_stage(shortened, first.network)
    loggers = Loggers(shortened, loader.steps)
    return PreparedRun(shortened, dataset, machine, loader, step, loggers, first, choice)


def _opening(
    prepared: PreparedRun, run: RunWriter, checkpoint: Checkpoint | None, is_new: bool
) -> Iterator[str]:
    """Yield the lines that are printed before the first step."""
    config, steps = prepared.config, prepared.loader.steps
    yield from banner(config, prepared.dataset, prepared.first.network, prepared.machine, steps)
    if prepared.choice.description:
        yield f"mode     {prepared.choice.description}"
    yield f"run      {run.folder.path}"
    if not is_new:
        yield resume_line(config, checkpoint, steps)


def _fit(prepared: PreparedRun, run: RunWriter, checkpoint: Checkpoint | None, console: Console) -> None:
    """Train all stages from the beginning or from a checkpoint, and write the weights."""
    config, loader = prepared.config, prepared.loader
    done = _start_loggers(prepared, run, checkpoint)
    steps = {phase: epochs * loader.steps for phase, epochs in phase_epochs(config).items()}
    display = Display(console, steps, done, phase_costs(config, prepared.dataset.train.counts))
    loop = Loop(loader, prepared.evaluate, run, display, prepared.learn)
    with closing(prepared.loggers), loop.stop, run.in_background(), display:
        final = _train_stages(loop, prepared, checkpoint)
        run.ranks.flush_delayed_max()
    final.network.projection = None
    train = prepared.dataset.train
    run.finish(final.network, Description.of(run.folder.config, train.manifest.classes, train.counts))


def _train_stages(loop: Loop, prepared: PreparedRun, checkpoint: Checkpoint | None) -> Stage:
    """Train all stages from the beginning or from a checkpoint, and return the last one."""
    first = prepared.first
    if isinstance(first, MajorToMinor) and _trains_seed_network(prepared.config, checkpoint):
        assert first.seed_stage is not None
        loop.train(first.seed_stage, checkpoint)
        first.use_seed_network(first.seed_network)
        checkpoint = None
    in_first = checkpoint is None or checkpoint.stage == first.name
    if in_first:
        loop.train(first, checkpoint)
        if isinstance(first, Representation) and first.bank.value.numel():
            loop.run.save_centroids(first.bank.value)
    if not prepared.config.rebalance.enabled:
        return first
    second = prepared.second_stage()
    loop.train(second, None if in_first else checkpoint)
    return second


def _trains_seed_network(config: Config, checkpoint: Checkpoint | None) -> bool:
    """Return True if a run has a seed stage and a checkpoint is not from a later stage."""
    return config.seed_epochs > 0 and (checkpoint is None or checkpoint.stage == "seed")


def _start_loggers(prepared: PreparedRun, run: RunWriter, checkpoint: Checkpoint | None) -> int:
    """Start the loggers on rank 0 and return the global step that the run has reached."""
    loggers = prepared.loggers
    stage, epoch, step = (checkpoint.stage, checkpoint.epoch, checkpoint.step) if checkpoint else (None, 0, 0)
    done = loggers.global_step(stage, epoch, step)
    if run.ranks.is_main:
        is_epoch_open = step == prepared.loader.steps  # all steps are done, but its record is not written
        loggers.open(run, done if is_epoch_open else done + 1)
    return done


def _check_same_position(run: RunWriter, checkpoint: Checkpoint | None) -> None:
    """Raise TrainingFailed unless all ranks have read the same checkpoint."""
    positions = run.ranks.all_gather_object(checkpoint.position if checkpoint else None)
    if any(position != positions[0] for position in positions):
        raise TrainingFailed(
            f"The ranks do not read the same checkpoint in {run.folder.path}. Restart all ranks."
        )


def _run_to_continue(config: Config, resume: bool) -> RunFolder | None:
    """Return the run to continue: the requested one, or the one whose ranks torchrun has restarted."""
    engine = config.engine
    restarted = rank_environment.restart_count() > 0
    if not (resume or restarted):
        return None
    try:
        run = RunFolder.newest(engine.project, config.data.dataset, engine.name)
    except UserError:
        if resume:
            raise
        return None  # the ranks ended before they created a run
    recorded = run.config.engine
    if resume:
        chosen = recorded.model_copy(update={"workers": engine.workers or recorded.workers})
        return replace(run, config=run.config.model_copy(update={"engine": chosen}))
    unnamed = run.config.model_copy(update={"engine": recorded.model_copy(update={"name": engine.name})})
    return run if unnamed == config else None  # ignore an older run with other settings


def _warner(rank: int, console: Console) -> Callable[[str], None]:
    """Return a function that prints warnings to the console or, if that is quiet, to standard error."""
    name = f"rank {rank}: " if rank else ""

    def warn(text: str) -> None:
        if rank == 0 and not console.quiet:  # a console becomes quiet when its reader closes the pipe
            print_lines(console, [text])
        else:
            print(name + text, file=sys.stderr)  # noqa: T201  the console is quiet

    return warn
