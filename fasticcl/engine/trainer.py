"""A run from configuration to report: data, both stages, weights."""

import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from rich.console import Console

from fasticcl.config import Config
from fasticcl.console import print_lines
from fasticcl.engine.banner import banner, phase_epochs, resumed
from fasticcl.engine.compile_trial import try_modes, wants_trial
from fasticcl.engine.dataset import Dataset, open_dataset
from fasticcl.engine.evaluate import Metrics, evaluate
from fasticcl.engine.loaders import build_loader, evaluation_split_batches
from fasticcl.engine.loggers import Loggers, require
from fasticcl.engine.loop import Loop
from fasticcl.engine.progress import Display
from fasticcl.engine.results import Report, report_of
from fasticcl.engine.run.deferred_writes import LateFiles
from fasticcl.engine.run.environment import environment
from fasticcl.engine.run.folder import Run
from fasticcl.engine.run.lock import held
from fasticcl.engine.run.save_clock import SaveClock
from fasticcl.engine.run.weights import Description
from fasticcl.engine.stages.rebalance import Rebalancing
from fasticcl.engine.stages.representation import Representation
from fasticcl.engine.stages.stage import Stage
from fasticcl.errors import TrainingFailed, UserError
from fasticcl.system import rank_environment
from fasticcl.system.machine import Machine, choose_machine
from fasticcl.system.ranks import Ranks
from fasticcl.system.signals import StopRequest


def train(config: Config, *, resume: bool = False, console: Console | None = None) -> Report:
    """Run both stages and return the report; the files are in the run folder.

    Args:
        config: the resolved configuration.
        resume: continue the run that ``config`` names (or the newest) with the settings it was started with.
        console: where progress is shown; None: nowhere.

    Raises:
        UserError: bad input.
        Stopped: a signal ended the run; it can be resumed.
        TrainingFailed: the loss is not finite, too many images cannot be read, or a rank is gone.
    """
    run = _run_to_continue(config, resume)
    machine = choose_machine((run.config if run else config).engine)
    with machine.ranks.report_lost_rank(), ExitStack() as until_the_end:
        return _train(config, run, machine, console, until_the_end)


def _train(
    config: Config, run: Run | None, machine: Machine, console: Console | None, until_the_end: ExitStack
) -> Report:
    ranks = machine.ranks
    # On several machines torchrun says on one only that it started the ranks again.
    if any(ranks.all_gather_object(run is not None)) and run is None:
        run = Run.newest(config.engine.project, config.data.dataset, config.engine.name)
    config = run.config if run else config
    console = console if console and ranks.is_main else Console(quiet=True)
    # Makes the demo's shards if need be, before the others look for them.
    insist = run is None
    ranks.run_on_main(lambda: open_dataset(config, machine.gpu, insist) and None)
    dataset = open_dataset(config, machine.gpu, insist)
    require(config.engine.logger)
    shortened = config.shortened() if config.engine.fast_dev_run else config
    warn = _warner(ranks.rank, console)
    if run and run.finished:
        run, _ = _open_run(run, config, dataset, ranks, warn, until_the_end)
        print_lines(console, [f"run      {run.folder} is finished already: nothing is left to train"])
        return report_of(run, dataset.evaluated.split)
    loader = build_loader(shortened, dataset, machine, warn)
    torch.manual_seed(config.engine.seed)
    if machine.gpu is not None:
        torch.backends.cudnn.benchmark = True
    trial = None
    if wants_trial(config, machine):
        trial = ranks.run_on_main(lambda: try_modes(config, dataset.num_classes, machine))
        machine = replace(machine, mode=trial.fastest)
    representation = Representation(shortened, dataset.num_classes, machine, dataset.train.counts)
    # Last, so that bad input leaves no folder behind.
    continued = run is not None
    run, checkpoint = _open_run(run, config, dataset, ranks, warn, until_the_end)
    loader.bad_samples.merge(checkpoint.get("bad_rows", []))
    run.started(environment(machine, run.data_sha256))
    opening = [*banner(shortened, dataset, representation.network, machine, loader.steps)]
    opening += [f"mode     {trial.describe()}"] if trial else []
    opening += [f"run      {run.folder}"]
    opening += [resumed(shortened, checkpoint, loader.steps)] if continued else []
    print_lines(console, opening)
    loggers, done = _start_loggers(shortened, run, loader.steps, checkpoint)
    steps = {phase: epochs * loader.steps for phase, epochs in phase_epochs(shortened).items()}
    with closing(loggers), StopRequest() as stop, Display(console, steps, done) as display:
        loop = Loop(
            loader,
            partial(_evaluate, shortened, dataset, machine),
            run,
            display,
            stop,
            SaveClock(config.engine.save_every),
            ranks,
            config.engine.log_every,
        )
        final = _train_stages(loop, representation, checkpoint)
        ranks.flush_delayed_max()
    final.network.projection = None
    run.release(final.network, Description.of(config, dataset.train.manifest.classes, dataset.train.counts))
    return report_of(run, dataset.evaluated.split)


def _open_run(
    run: Run | None,
    config: Config,
    dataset: Dataset,
    ranks: Ranks,
    warn: Callable[[str], None],
    until_the_end: ExitStack,
) -> tuple[Run, dict[str, Any]]:
    """Return the run, made if it is new, and the checkpoint that it goes on from, the same on all ranks."""
    continued = run is not None
    if run is None:
        folder = ranks.run_on_main(lambda: Run.create(config).folder)
        run = Run(folder, config)
    hold = held(run.folder)
    ranks.run_on_main(lambda: until_the_end.enter_context(hold))
    run.files = LateFiles(run.folder, ranks.is_main, warn)
    run.data_sha256 = dataset.train.manifest.source_sha256
    checkpoint = run.resume() if continued else {}
    reached = ranks.all_gather_object([checkpoint.get(key) for key in ("stage", "epoch", "step")])
    if any(each != reached[0] for each in reached):
        raise TrainingFailed(f"The ranks do not read the same checkpoint in {run.folder}; start them again.")
    return run, checkpoint


def _run_to_continue(config: Config, resume: bool) -> Run | None:
    """Return the run that goes on: the one that is asked for, or the one that torchrun has started again."""
    engine = config.engine
    restarted = rank_environment.restart_count() > 0
    if not (resume or restarted):
        return None
    try:
        run = Run.newest(engine.project, config.data.dataset, engine.name)
    except UserError:
        if resume:
            raise
        return None  # it ended before there was a run
    unnamed = run.config.model_copy(
        update={"engine": run.config.engine.model_copy(update={"name": engine.name})}
    )
    return run if resume or unnamed == config else None  # an older run of other settings is not meant


def _warner(rank: int, console: Console) -> Callable[[str], None]:
    """Return what tells a person of trouble on this rank, where all else is silent on standard error."""
    name = f"rank {rank}: " if rank else ""

    def warn(text: str) -> None:
        if rank == 0 and not console.quiet:  # which it becomes when its reader goes away
            print_lines(console, [text])
        else:
            print(name + text, file=sys.stderr)  # noqa: T201  the console is quiet

    return warn


def _train_stages(loop: Loop, first: Representation, checkpoint: dict[str, Any]) -> Stage:
    """Train what is left of both stages and return the last."""
    in_second = checkpoint.get("stage") == "rebalancing"
    if not in_second:
        _train_stage(loop, first, checkpoint)
        if first.bank.value.numel():
            loop.run.keep_centroids(first.bank.value)
    if not first.config.rebalance.epochs:
        return first
    second = Rebalancing(first.config, first.network, first.machine)
    _train_stage(loop, second, checkpoint if in_second else {})
    return second


def _train_stage(loop: Loop, stage: Stage, checkpoint: Any) -> None:
    if not checkpoint:
        loop.train(stage)
        return
    stage.load_state_dict(checkpoint)
    loop.train(stage, checkpoint["epoch"], checkpoint["step"], checkpoint["partial"])


def _evaluate(config: Config, dataset: Dataset, machine: Machine, stage: Stage) -> Metrics:
    batches = evaluation_split_batches(config, dataset, machine)
    return evaluate(stage.network, batches, dataset.train.counts, machine)


def _start_loggers(config: Config, run: Run, steps: int, checkpoint: dict[str, Any]) -> tuple[Loggers, int]:
    """Return the loggers, started on rank 0, and the global step that the run has reached."""
    loggers = Loggers(config, steps)
    done = loggers.step(checkpoint.get("stage"), checkpoint.get("epoch", 0), checkpoint.get("step", 0))
    if run.files.is_main:
        epoch_is_open = checkpoint.get("step") == steps  # its steps are taken, its record is still to come
        loggers.open(run, done if epoch_is_open else done + 1)
    return loggers, done
