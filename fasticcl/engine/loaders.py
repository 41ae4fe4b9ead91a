"""The training loader and the evaluation loaders of a run."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasticcl.config import Config
from fasticcl.data.evaluation_loader import EvaluationLoader
from fasticcl.data.loader import Loader
from fasticcl.data.plan import Plan
from fasticcl.engine.dataset import Dataset
from fasticcl.errors import UserError
from fasticcl.shards.reader import Shards
from fasticcl.system.machine import Machine

FAST_DEV_RUN_STEPS = 3
"""Steps of an epoch and batches of an evaluation with ``engine.fast_dev_run``."""
_BATCH_BYTES = 2**28
"""Largest automatic evaluation batch in bytes, if training has a smaller one."""


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
        resample_epoch=config.resample_epoch,
        # The seed network of M2m is trained in the same run, on uniform batches in all epochs.
        resample_phase="translation" if config.method.first_stage == "m2m" else None,
        holdout_rows=dataset.holdout_rows,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    return Loader(
        dataset.train,
        plan,
        cache_location=dataset.cache_location,
        warn=warn,
        max_steps=FAST_DEV_RUN_STEPS if config.engine.fast_dev_run else None,
        threads=config.engine.workers,
        prefetch=config.engine.prefetch,
        gpu=machine.gpu,
        copy_outputs=machine.captures_graphs,
    )


def evaluation_split_batches(
    config: Config, dataset: Dataset, machine: Machine, repeat: bool = False
) -> EvaluationLoader:
    """Return this rank's batches of the evaluated split. ``fast_dev_run`` limits their number.

    Args:
        config: configuration of the run.
        dataset: the opened splits.
        machine: device and ranks.
        repeat: True if the batches are iterated more than once.
    """
    cache = dataset.evaluation_cache
    return _evaluation_loader(config, dataset.evaluated, machine, cache=cache, repeat=repeat)


def holdout_batches(config: Config, dataset: Dataset, machine: Machine) -> EvaluationLoader:
    """Return this rank's batches of the holdout images, with the transforms of an evaluation."""
    return _evaluation_loader(config, dataset.train, machine, rows=dataset.holdout_rows)


def training_image_batches(
    config: Config, dataset: Dataset, machine: Machine, rows: NDArray[np.int64]
) -> EvaluationLoader:
    """Return batches of training images, with the transforms of an evaluation.

    Args:
        config: configuration of the run.
        dataset: the opened splits.
        machine: device and ranks. The images are not divided among the ranks.
        rows: rows of the training images.
    """
    return _evaluation_loader(config, dataset.train, machine, rows=rows, rank=0, world_size=1)


def evaluation_batch_size(config: Config, machine: Machine) -> int:
    """Return the images per evaluation batch of each rank.

    ``engine.eval_batch_size`` sets it. On a CPU, the default is the batch size of training. On a GPU, it is
    four times that size, limited to 256 MiB of images (445 of 224 pixels) but never below the size of
    training. This fits where training fits: for an image of 224 pixels, a forward pass in bfloat16 needs
    3.5 MiB (ResNet-18) or 5 MiB (ResNet-50) without gradients, and 11 or 42 MiB with them.
    """
    if config.engine.eval_batch_size is not None:
        return config.engine.eval_batch_size
    trained = -(-config.optim.batch_size // machine.ranks.world_size)
    if machine.gpu is None:
        return trained
    image_bytes = 4 * 3 * config.data.image_size**2
    return max(trained, min(4 * trained, _BATCH_BYTES // image_bytes))


def _evaluation_loader(config: Config, shards: Shards, machine: Machine, **options: Any) -> EvaluationLoader:
    ranks: dict[str, Any] = {"rank": machine.ranks.rank, "world_size": machine.ranks.world_size}
    return EvaluationLoader(
        shards,
        config.data,
        **(ranks | options),
        batch_size=evaluation_batch_size(config, machine),
        max_batches=FAST_DEV_RUN_STEPS if config.engine.fast_dev_run else None,
        threads=config.engine.workers,
        prefetch=config.engine.prefetch,
        gpu=machine.gpu,
        copy_outputs=machine.captures_graphs,
    )
