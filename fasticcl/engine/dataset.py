"""The data of a run: its opened splits, the training loader and the batches of an evaluation."""

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasticcl.config import Config
from fasticcl.data.batch import StreamBatch
from fasticcl.data.cache import Cache, CacheLocation, choose_cache_location, evaluation_cache
from fasticcl.data.holdout import draw_holdout_rows
from fasticcl.data.loader import Loader, evaluation_batches
from fasticcl.data.plan import Plan
from fasticcl.errors import UserError
from fasticcl.shards.manifest import Manifest
from fasticcl.shards.reader import Shards
from fasticcl.system.machine import Machine

_FEW_STEPS = 3  # of fast_dev_run


@dataclass(frozen=True)
class Dataset:
    """The opened splits of a run."""

    train: Shards
    evaluated: Shards
    cache_location: CacheLocation
    """Where images are kept, decoded once."""
    gpu: int | None
    """Number of the device; None: the CPU."""
    holdout_rows: NDArray[np.int64]
    """Rows of ``train`` that training leaves out, sorted."""

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.train.counts)

    @cached_property
    def evaluation_cache(self) -> Cache | None:
        """The decoded images of the evaluated split, where they are kept."""
        return (
            None
            if self.cache_location == "off"
            else evaluation_cache(self.evaluated, self.cache_location, self.gpu)
        )


def open_dataset(config: Config, gpu: int | None = None, insist: bool = True) -> Dataset:
    """Open the shards that a configuration names; the demo's are made if need be.

    Args:
        config: the configuration of the run.
        gpu: number of the device on which images may be kept; None: the CPU.
        insist: whether too little memory for the cache is an error, as for a new run: to one that was made
            when or where there was more, the cache does not matter.

    Raises:
        UserError: no shards, shards of another dataset or imbalance ratio, fewer than two classes, or too
            little memory for the cache that is asked for.
    """
    data = config.data
    manifest = Manifest.read(data.dir)
    if manifest is None and data.dataset == "demo":
        from fasticcl.convert.conversion import convert  # training alone needs no JPEG library
        from fasticcl.convert.layouts import digits

        manifest = convert(digits.read(), data.dir)
    if manifest is None:
        ratio = f" --imbalance {data.imbalance}" if data.imbalance else ""
        place = shlex.quote(str(data.dir))
        begun = any(data.dir.glob("*/shard-*"))  # a conversion that was stopped
        if data.dataset == "folder" and data.dir.is_dir() and any(data.dir.iterdir()) and not begun:
            raise UserError(
                f"{data.dir} holds no shards; if it holds pictures, make some with: "
                f"fasticcl convert folder {place} data/folder --val-fraction 0.1"
            )
        raise UserError(
            f"There are no shards of {data.dataset} in {data.dir}; make them with: "
            f"fasticcl convert {data.dataset} SRC {place}{ratio} (`fasticcl datasets` says what SRC is)"
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
    holdout_rows = draw_holdout_rows(train.counts, data.holdout, config.engine.seed)
    location = choose_cache_location(data.cache, (train, evaluated), gpu, insist)
    return Dataset(train, evaluated, location, gpu, holdout_rows)


def build_loader(
    config: Config, dataset: Dataset, machine: Machine, warn: Callable[[str], None] = lambda _: None
) -> Loader:
    """Return the loader of a run; ``warn`` is called with a sentence for each unreadable image.

    Raises:
        UserError: a batch that is larger than the training split, or cannot be divided among the ranks.
    """
    batch_size = config.optim.batch_size
    images = len(dataset.train) - len(dataset.holdout_rows)
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
        holdout_rows=dataset.holdout_rows,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    return Loader(
        dataset.train,
        plan,
        cache_location=dataset.cache_location,
        warn=warn,
        most_steps=_FEW_STEPS if config.engine.fast_dev_run else None,
        threads=config.engine.workers,
        prefetch=config.engine.prefetch,
        gpu=machine.gpu,
    )


def batches_to_evaluate(config: Config, dataset: Dataset, machine: Machine) -> Iterable[StreamBatch]:
    """Return this rank's images of the evaluated split, each once; a few of them for ``fast_dev_run``."""
    return _evaluation(config, dataset.evaluated, machine, cache=dataset.evaluation_cache)


def holdout_batches(config: Config, dataset: Dataset, machine: Machine) -> Iterable[StreamBatch]:
    """Return this rank's images of those that training leaves out, as an evaluation sees them."""
    return _evaluation(config, dataset.train, machine, rows=dataset.holdout_rows)


def _evaluation(config: Config, shards: Shards, machine: Machine, **which: Any) -> Iterable[StreamBatch]:
    batches = evaluation_batches(
        shards,
        config.data,
        **which,
        batch_size=-(-config.optim.batch_size // machine.ranks.world_size),
        threads=config.engine.workers,
        prefetch=config.engine.prefetch,
        gpu=machine.gpu,
        rank=machine.ranks.rank,
        world_size=machine.ranks.world_size,
    )
    return islice(batches, _FEW_STEPS) if config.engine.fast_dev_run else batches
