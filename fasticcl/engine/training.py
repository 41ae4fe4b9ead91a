"""A run from configuration to report: data, both stages, weights; and its evaluation afterwards."""

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file

from fasticcl.config import Config
from fasticcl.data.cache import Cache, is_wanted
from fasticcl.data.loader import Loader, StreamBatch, evaluation_batches, evaluation_cache
from fasticcl.data.longtail import splits
from fasticcl.data.plan import Plan
from fasticcl.data.shards import Manifest, Shards
from fasticcl.engine.checkpoint import load_checkpoint
from fasticcl.engine.evaluate import METRICS, Metrics, evaluate
from fasticcl.engine.loop import Loop
from fasticcl.engine.machine import Machine, choose_machine
from fasticcl.engine.progress import Display
from fasticcl.engine.rebalance import Rebalancing
from fasticcl.engine.representation import Representation
from fasticcl.engine.run import Run
from fasticcl.engine.saving import SaveClock
from fasticcl.engine.stage import Stage
from fasticcl.engine.stop import StopRequest
from fasticcl.errors import TrainingFailed, UserError
from fasticcl.method.network import Network

_FEW_STEPS = 3  # of fast_dev_run


@dataclass(frozen=True)
class Report:
    """The accuracies of a run, by what was evaluated."""

    run: Path
    rows: dict[str, Metrics]
    """``before`` and ``after`` rebalancing, both at the last epoch of their stage, and ``best``, the
    epoch with the highest overall accuracy on the evaluated split. Without rebalancing: ``last``
    and ``best``."""
    best_epoch: int
    """The epoch of ``best``, counted from 1 in its stage."""
    split: str
    """The split that was evaluated."""


@dataclass(frozen=True)
class Dataset:
    """The opened splits of a run."""

    train: Shards
    evaluated: Shards
    cached: bool
    """Whether images are decoded once and kept."""

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.train.counts)

    @cached_property
    def evaluation_cache(self) -> Cache | None:
        """The decoded images of the evaluated split, where they are kept."""
        return evaluation_cache(self.evaluated) if self.cached else None


def open_dataset(config: Config) -> Dataset:
    """Open the shards that a configuration names; the demo's are made if need be.

    Raises:
        UserError: no shards, shards of another dataset or imbalance ratio, fewer than two classes, or too
            little memory for the cache that is asked for.
    """
    data = config.data
    manifest = Manifest.read(data.dir)
    if manifest is None and data.dataset == "demo":
        from fasticcl.data.convert import convert  # training alone needs no JPEG library
        from fasticcl.data.sources import digits

        manifest = convert(digits.read(), data.dir)
    if manifest is None:
        ratio = f" --imbalance {data.imbalance}" if data.imbalance else ""
        raise UserError(
            f"There are no shards of {data.dataset} in {data.dir}; make them with: "
            f"fasticcl convert {data.dataset} SRC {data.dir}{ratio} (`fasticcl datasets` says what SRC is)"
        )
    # Shards made from plain folders can hold any dataset.
    if manifest.dataset not in (data.dataset, "folder"):
        raise UserError(
            f"{data.dir} holds shards of {manifest.dataset}, not of {data.dataset}; choose another --data."
        )
    made_with = manifest.settings.get("imbalance")
    if data.imbalance and made_with and data.imbalance != made_with:
        raise UserError(
            f"The shards in {data.dir} have the imbalance ratio {made_with}; give --imbalance {made_with}, "
            f"or convert again with --imbalance {data.imbalance}."
        )
    if len(manifest.classes) < 2:
        raise UserError(
            f"{data.dir} has only the class {manifest.classes[0]!r}; a classifier needs at least two."
        )
    present = [name for name in ("test", "val") if name in manifest.splits]
    split = present[0] if data.eval_split == "auto" else data.eval_split
    train, evaluated = (Shards(data.dir, name, data.verify_reads) for name in ("train", split))
    return Dataset(train, evaluated, is_wanted(data.cache, (train, evaluated)))


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
    with machine.ranks.together():
        return _train(config, run, machine, console)


def _train(config: Config, run: Run | None, machine: Machine, console: Console | None) -> Report:
    ranks = machine.ranks
    # On several machines torchrun says on one only that it started the ranks again.
    if any(ranks.collect(run is not None)) and run is None:
        run = Run.newest(config.engine.project, config.data.dataset, config.engine.name)
    config = run.config if run else config
    console = console if console and ranks.is_main else Console(quiet=True)
    # Makes the demo's shards if need be, before the others look for them.
    ranks.from_main(lambda: open_dataset(config) and None)
    dataset = open_dataset(config)
    shortened = config.shortened() if config.engine.fast_dev_run else config
    loader = build_loader(shortened, dataset, machine)
    loader.bad.warn = _warner(ranks.rank, console)
    torch.manual_seed(config.engine.seed)
    if machine.gpu is not None:
        torch.backends.cudnn.benchmark = True
    representation = Representation(shortened, dataset.num_classes, machine)
    continued = run is not None
    if run is None:  # last, so that bad input leaves no folder behind
        folder = ranks.from_main(lambda: Run.create(config).folder)
        run = Run(folder, config)
    run.is_main, run.warn = ranks.is_main, _warner(ranks.rank, console)
    run.data_sha256 = dataset.train.manifest.source_sha256
    checkpoint = run.resume() if continued else {}
    reached = ranks.collect([checkpoint.get(key) for key in ("stage", "epoch", "step")])
    if any(each != reached[0] for each in reached):
        raise TrainingFailed(f"The ranks do not read the same checkpoint in {run.folder}; start them again.")
    loader.bad.know(checkpoint.get("bad_rows", []))
    _banner(console, run, dataset, representation, machine)
    with StopRequest() as stop, _display(console, shortened, loader.steps, checkpoint) as display:
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
        final: Stage = representation
        in_second = checkpoint.get("stage") == "rebalancing"
        if not in_second:
            _train_stage(loop, representation, checkpoint)
        if shortened.rebalance.epochs:
            final = Rebalancing(shortened, representation.network, machine)
            _train_stage(loop, final, checkpoint if in_second else {})
        ranks.settle()
    final.network.projection = None
    run.release(final.network)
    return _report(run, dataset.evaluated.split)


def _run_to_continue(config: Config, resume: bool) -> Run | None:
    """Return the run that goes on: the one that is asked for, or the one that torchrun has started again."""
    engine = config.engine
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
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
    """Return what tells a person of trouble on this rank."""
    if rank == 0:
        return lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)
    return lambda text: print(f"rank {rank}: {text}", file=sys.stderr)  # noqa: T201  their console is quiet


def evaluate_run(folder: Path, *, device: str | None = None, workers: int | None = None) -> Report:
    """Evaluate the saved weights of a finished run again.

    Args:
        folder: the run folder.
        device: auto, cpu or gpu; None: as the run was started.
        workers: threads; None: as the run was started.

    Raises:
        UserError: no run, an unfinished one, or missing shards.
    """
    run = Run.open(folder)
    changed = {name: value for name, value in (("device", device), ("workers", workers)) if value is not None}
    config = run.config.model_copy(update={"engine": run.config.engine.model_copy(update=changed)})
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"{folder} is not finished; continue it with: {run.resume_command}")
    machine = choose_machine(config.engine)
    dataset = open_dataset(config)
    run.data_sha256 = dataset.train.manifest.source_sha256
    last, best = run.checkpoint(), load_checkpoint(folder / "best.pt")
    weights = {"after" if "teacher" in last else "last": load_file(folder / "model.safetensors")}
    if "teacher" in last:
        weights = {"before": last["teacher"], **weights}
    weights["best"] = best["network"]
    network = Network(config.method.encoder, dataset.num_classes)
    machine.place(network)
    rows = {}
    for name, state in weights.items():
        network.load_state_dict({k: v for k, v in state.items() if not k.startswith("projection.")})
        rows[name] = evaluate(network, _evaluation(config, dataset, machine), dataset.train.counts, machine)
    return Report(folder, rows, best["record"]["epoch"], dataset.evaluated.split)


def build_loader(config: Config, dataset: Dataset, machine: Machine) -> Loader:
    """Return the loader of a run.

    Raises:
        UserError: a batch that is larger than the training split, or cannot be divided among the ranks.
    """
    batch_size = config.optim.batch_size
    images = len(dataset.train)
    if batch_size > images:
        raise UserError(
            f"A batch of {batch_size} is larger than the {images} training images; "
            f"use --batch-size {images} or less."
        )
    ranks = machine.ranks
    if batch_size % ranks.world_size:
        raise UserError(
            f"A global batch of {batch_size} cannot be divided among {ranks.world_size} ranks; "
            f"use --batch-size {batch_size // ranks.world_size * ranks.world_size or ranks.world_size}."
        )
    plan = Plan(
        dataset.train.index,
        dataset.train.counts,
        config.data,
        batch_size=batch_size,
        seed=config.engine.seed,
        rebalance_gamma=config.rebalance.gamma,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    return Loader(
        dataset.train,
        plan,
        cached=dataset.cached,
        most_steps=_FEW_STEPS if config.engine.fast_dev_run else None,
        threads=config.engine.workers,
        prefetch=config.engine.prefetch,
        gpu=machine.gpu,
    )


def _train_stage(loop: Loop, stage: Stage, checkpoint: dict[str, Any]) -> None:
    if not checkpoint:
        loop.train(stage)
        return
    stage.restore(checkpoint)
    loop.train(stage, checkpoint["epoch"], checkpoint["step"], checkpoint["partial"])


def _evaluation(config: Config, dataset: Dataset, machine: Machine) -> Iterable[StreamBatch]:
    batches = evaluation_batches(
        dataset.evaluated,
        config.data,
        cache=dataset.evaluation_cache,
        batch_size=-(-config.optim.batch_size // machine.ranks.world_size),
        threads=config.engine.workers,
        prefetch=config.engine.prefetch,
        gpu=machine.gpu,
        rank=machine.ranks.rank,
        world_size=machine.ranks.world_size,
    )
    return islice(batches, _FEW_STEPS) if config.engine.fast_dev_run else batches


def _evaluate(config: Config, dataset: Dataset, machine: Machine, stage: Stage) -> Metrics:
    return evaluate(stage.network, _evaluation(config, dataset, machine), dataset.train.counts, machine)


def _display(console: Console, config: Config, steps: int, checkpoint: dict[str, Any]) -> Display:
    done = checkpoint.get("epoch", 0) * steps + checkpoint.get("step", 0)
    if checkpoint.get("stage") == "rebalancing":
        done += config.optim.epochs * steps
    return Display(console, (config.optim.epochs + config.rebalance.epochs) * steps, done)


def _banner(
    console: Console, run: Run, dataset: Dataset, representation: Representation, machine: Machine
) -> None:
    counts, config = dataset.train.counts, run.config
    sizes = ", ".join(f"{int(member.sum())} {name}" for name, member in splits(counts).items())
    parameters = sum(p.numel() for p in representation.network.parameters())
    lines = [
        f"data     {config.data.dataset}: {len(dataset.train):,} training images, "
        f"{dataset.num_classes} classes ({sizes}), largest/smallest {counts.max()}/{counts.min()}; "
        f"{len(dataset.evaluated):,} {dataset.evaluated.split} images",
        f"method   {config.method.name}: {config.method.encoder}, {parameters:,} parameters, "
        f"batch {config.optim.batch_size}, learning rate {config.optim.lr:g}, seed {config.engine.seed}",
        f"machine  {machine.describe()}",
        f"run      {run.folder}",
    ]
    ratio = counts.max() / counts.min()
    if config.data.imbalance and abs(ratio / config.data.imbalance - 1) > 0.05:
        lines.append(
            f"warning  the imbalance ratio of these shards is {ratio:.0f}, not {config.data.imbalance}"
        )
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _report(run: Run, split: str) -> Report:
    before, after = run.last("representation"), run.last("rebalancing")
    best = run.best("rebalancing" if after else "representation")
    rows = {"before": before, "after": after, "best": best} if after else {"last": before, "best": best}
    accuracies = {name: {key: record[key] for key in METRICS} for name, record in rows.items() if record}
    return Report(run.folder, accuracies, best["epoch"] if best else 0, split)
