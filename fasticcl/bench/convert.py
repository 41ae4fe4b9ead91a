"""How many images per second ``fasticcl convert folder`` makes shards of."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from fasticcl.bench.measure import Work
from fasticcl.convert.conversion import convert
from fasticcl.convert.layouts import registry
from fasticcl.convert.source import Source
from fasticcl.shards.shrink import Shrink

WARMUP = 1  # conversions
SHORT_SIDE, QUALITY = 256, 90
MODES: dict[str, Shrink | None] = {
    "bytes kept": None,
    f"short side {SHORT_SIDE}": Shrink("short", SHORT_SIDE, QUALITY),
}
_SHARDS_PER_WORKER = 4  # so that no worker idles for long at the end


def open_source(path: Path, limit: int) -> Source:
    """Return some images of a folder, as ``fasticcl convert folder`` lists them.

    Raises:
        UserError: no folder of images.
    """
    names = {each.name for each in path.iterdir()} if path.is_dir() else set()
    fraction = None if names & {"val", "test"} else 0.1
    return registry.read_source("folder", path, long_tail=None, limit=limit, val_fraction=fraction)


def convert_work(source: Source, shrink: Shrink | None, workers: int, scratch: Path) -> Work:
    """Return the work of converting all images anew, again and again; each whole conversion is a batch."""
    images = sum(map(len, source.splits.values()))
    shard_size = max(1, len(source.splits["train"]) // (_SHARDS_PER_WORKER * workers))

    def start() -> Iterator[int]:
        while True:
            shutil.rmtree(scratch, ignore_errors=True)  # else there would be nothing to do
            convert(source, scratch, shard_size=shard_size, shrink=shrink, workers=workers)
            yield images

    return start
