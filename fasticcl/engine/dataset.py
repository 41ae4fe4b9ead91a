"""The shards of a run, opened and checked against its configuration."""

import shlex
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fasticcl.config import Config, Data
from fasticcl.data.cache import Cache, CacheLocation, choose_cache_location, evaluation_cache
from fasticcl.data.holdout import draw_holdout_rows
from fasticcl.errors import UserError
from fasticcl.shards.manifest import Manifest
from fasticcl.shards.reader import Shards


@dataclass(frozen=True)
class Dataset:
    """The opened splits of a run: training and evaluated shards."""

    train: Shards
    evaluated: Shards
    cache_location: CacheLocation
    """Memory that holds the decoded images."""
    gpu: int | None
    """CUDA device index. None means CPU."""
    holdout_rows: NDArray[np.int64]
    """Sorted rows of ``train`` that are withheld from training to choose settings."""

    @property
    def num_classes(self) -> int:
        """Return the number of classes K."""
        return len(self.train.counts)

    @cached_property
    def evaluation_cache(self) -> Cache | None:
        """Return the decoded images of the evaluated split, or None without a cache."""
        if self.cache_location == "off":
            return None
        return evaluation_cache(self.evaluated, self.cache_location, self.gpu)


def open_dataset(config: Config, gpu: int | None = None, require_cache: bool = True) -> Dataset:
    """Open the shards of a configuration. The demo's shards are created if they are missing.

    Args:
        config: configuration of the run.
        gpu: CUDA device index for the cache. None means CPU.
        require_cache: if True, raise an error when the requested cache does not fit into memory. Pass False
            for an existing run, whose results do not depend on the cache.

    Raises:
        UserError: there are no shards, they belong to another dataset or imbalance ratio, they have fewer
            than two classes or no split to evaluate, or the requested cache does not fit into memory.
    """
    data = config.data
    manifest = Manifest.read(data.dir) or _create_demo_shards(data)
    if manifest is None:
        raise UserError(_missing_shards_message(data))
    _check_manifest(manifest, data)
    splits = ("train", _eval_split(manifest, data))
    train, evaluated = (Shards(data.dir, split, data.verify_reads) for split in splits)
    cache_location = choose_cache_location(data.cache, (train, evaluated), gpu, require_cache)
    holdout_rows = draw_holdout_rows(train.counts, data.holdout, config.engine.seed)
    return Dataset(train, evaluated, cache_location, gpu, holdout_rows)


def _create_demo_shards(data: Data) -> Manifest | None:
    """Convert the demo's images to ``data.dir`` and return the manifest. Return None for other datasets."""
    if data.dataset != "demo":
        return None
    # Imported here because training alone needs no JPEG library.
    from fasticcl.convert.conversion import convert
    from fasticcl.convert.layouts import digits

    return convert(digits.read(), data.dir)


def _missing_shards_message(data: Data) -> str:
    folder = shlex.quote(str(data.dir))
    interrupted = any(data.dir.glob("*/shard-*"))  # left by an interrupted conversion
    if data.dataset == "folder" and data.dir.is_dir() and any(data.dir.iterdir()) and not interrupted:
        return (
            f"{data.dir} contains no shards. If it contains images, convert them with: "
            f"fasticcl convert folder {folder} data/folder --val-fraction 0.1"
        )
    ratio = f" --imbalance {data.imbalance}" if data.imbalance else ""
    return (
        f"There are no shards of {data.dataset} in {data.dir}. Create them with: "
        f"fasticcl convert {data.dataset} SRC {folder}{ratio} (`fasticcl datasets` describes SRC)"
    )


def _check_manifest(manifest: Manifest, data: Data) -> None:
    """Raise UserError if the shards do not match the configuration."""
    # Shards that were converted from plain folders can contain any dataset.
    if manifest.dataset not in (data.dataset, "folder"):
        raise UserError(
            f"{data.dir} contains shards of {manifest.dataset}, not of {data.dataset}. Pass another --data."
        )
    converted_with = manifest.settings.get("imbalance")
    if data.imbalance and converted_with and data.imbalance != converted_with:
        raise UserError(
            f"The shards in {data.dir} have imbalance ratio {converted_with}. "
            f"Use --imbalance {converted_with}, or convert again with --imbalance {data.imbalance}."
        )
    if len(manifest.classes) < 2:
        raise UserError(
            f"{data.dir} has only one class, {manifest.classes[0]!r}. A classifier needs at least two."
        )


def _eval_split(manifest: Manifest, data: Data) -> str:
    """Return the split to evaluate. ``auto`` means test if there is one, otherwise val."""
    if data.eval_split != "auto":
        return data.eval_split
    for split in ("test", "val"):
        if split in manifest.splits:
            return split
    raise UserError(
        f"{data.dir} has neither a test nor a val split to evaluate. "
        "Convert the images again with val images, for example with --val-fraction 0.1."
    )
