"""The training loader and the evaluation batches of a run."""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from fasticcl.config import Config
from fasticcl.data.batch import StreamBatch
from fasticcl.data.loader import Loader, evaluation_batches
from fasticcl.data.plan import Plan
from fasticcl.engine.dataset import Dataset
from fasticcl.errors import UserError
from fasticcl.shards.reader import Shards
from fasticcl.system.machine import Machine

_FAST_DEV_RUN_STEPS = 3
"""Steps of an epoch and batches of an evaluation with ``engine.fast_dev_run``."""


def build_loader(
    config: Config, dataset: Dataset, machine: Machine, warn: Callable[[str], None] = lambda _: None
) -> Loader:
    """Return the training loader of a run.

    Args:
        config: configuration of the run.
        dataset: the opened splits.
        machine: device and ranks.
        warn: called with one sentence for each unreadable image.

    Raises:
        UserError: the batch is larger than the training split or not divisible by the number of ranks.
    """
    batch_size = config.optim.batch_size
    images = len(dataset.train) - len(dataset.holdout_rows)
    if batch_size > images:
        outside, remedy = "", f"Use --batch-size {images} or less."
        if len(dataset.holdout_rows):  # a sweep has no --batch-size
            outside = " outside the holdout set"
            remedy = f"Train with --batch-size {images} or less, or use a smaller holdout."
        raise UserError(
            f"A batch of {batch_size} is larger than the {images} training images{outside}. {remedy}"
        )
    ranks = machine.ranks
    if batch_size % ranks.world_size:
        raise UserError(
            f"A global batch of {batch_size} cannot be divided among {ranks.world_size} ranks. "
            f"Use --batch-size {batch_size // ranks.world_size * ranks.world_size or ranks.world_size}."
        )
    plan = Plan(
        dataset.train.index,
        dataset.train.counts,
        config.data,
        batch_size=batch_size,
        seed=config.engine.seed,
        rebalance_gamma=config.rebalance.gamma,
        holdout_rows=dataset.holdout_rows,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    return Loader(
        dataset.train,
        plan,
        cache_location=dataset.cache_location,
        warn=warn,
        max_steps=_FAST_DEV_RUN_STEPS if config.engine.fast_dev_run else None,
        threads=config.engine.workers,
        prefetch=config.engine.prefetch,
        gpu=machine.gpu,
        copy_outputs=machine.captures_graphs,
    )


def evaluation_split_batches(config: Config, dataset: Dataset, machine: Machine) -> Iterable[StreamBatch]:
    """Return this rank's batches of the evaluated split. ``fast_dev_run`` limits their number."""
    return _evaluation_batches(config, dataset.evaluated, machine, cache=dataset.evaluation_cache)


def holdout_batches(config: Config, dataset: Dataset, machine: Machine) -> Iterable[StreamBatch]:
    """Return this rank's batches of the holdout images, with the transforms of an evaluation."""
    return _evaluation_batches(config, dataset.train, machine, rows=dataset.holdout_rows)


def _evaluation_batches(
    config: Config, shards: Shards, machine: Machine, **options: Any
) -> Iterable[StreamBatch]:
    batches = evaluation_batches(
        shards,
        config.data,
        **options,
        batch_size=-(-config.optim.batch_size // machine.ranks.world_size),
        threads=config.engine.workers,
        prefetch=config.engine.prefetch,
        gpu=machine.gpu,
        rank=machine.ranks.rank,
        world_size=machine.ranks.world_size,
    )
    return islice(batches, _FAST_DEV_RUN_STEPS) if config.engine.fast_dev_run else batches
