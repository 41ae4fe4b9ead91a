"""fasticcl's Loader in the interpolative phase on the CPU, with one DALI thread per core."""

from collections.abc import Iterator
from pathlib import Path

from _peer import Pairs, Settings, Variants, main

import fasticcl
from fasticcl.config import Data
from fasticcl.data.batch import Batch
from fasticcl.data.loader import Loader
from fasticcl.data.plan import Plan
from fasticcl.shards.reader import Shards
from fasticcl.system.allocator import keep_freed_memory


def shards_of(folder: Path, short_side: int | None = None) -> Path:
    """Convert the images unless the shards exist, and return the folder of the shards."""
    dest = folder / ("shards" if short_side is None else f"shards-{short_side}")
    fasticcl.convert("folder", folder, dest, shard_size=50, short_side=short_side)
    return dest


def loader_of(settings: Settings, short_side: int | None = None) -> Loader:
    """Return the loader as in `fasticcl train`."""
    folder = shards_of(settings.folder, short_side)
    keep_freed_memory()  # as in `fasticcl train`
    shards = Shards(folder, "train")
    data = Data(dataset="folder", dir=folder, image_size=settings.side)
    plan = Plan(shards.index, shards.counts, data, batch_size=settings.batch_size, seed=0)
    return Loader(shards, plan, threads=settings.cores)


def variants(settings: Settings, short_side: int | None = None) -> Variants:
    return {"fasticcl's loader": lambda: _batches(loader_of(settings, short_side))}


def _batches(loader: Loader) -> Iterator[Pairs]:
    for batch in loader.batches("interpolative"):
        assert isinstance(batch, Batch)
        yield Pairs(batch.x_h, batch.y_h, batch.x_f, batch.y_t, batch.lam)


if __name__ == "__main__":
    main(variants, ["torch", "nvidia-dali-cuda120", "numpy"])
