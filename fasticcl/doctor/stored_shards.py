"""The shards of ``--data``: whether a sample of them is sound, and how fast they are read."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fasticcl.doctor.facts import Reading, Stored
from fasticcl.errors import UserError
from fasticcl.shards.manifest import Manifest
from fasticcl.shards.reader import DamagedImages, Shards, shard_name

_SAMPLE = 200  # images a split whose checksums are compared
_IMAGES = 4096  # most that are read to measure
_SECONDS = 1.0
_TOGETHER = 64  # reads under way at a time: the loader asks for a whole batch's
_ASKED = 16  # images that are looked for in the page cache


def read(folder: Path) -> Stored:
    """Return what is known of the shards in a folder after a look of some two seconds.

    Manifest, sizes and indexes are compared in whole, and images by their checksums in a random sample.
    """
    try:
        splits = _opened(folder)
        reading = _measure(splits[0])  # before images are mapped, which keeps them in the page cache
        sampled = sum(_compare(shards) for shards in splits)
    except (UserError, DamagedImages, OSError) as error:
        damaged = isinstance(error, DamagedImages)
        return Stored(problem=f"changed since the conversion: {error}" if damaged else str(error))
    return Stored(
        dataset=splits[0].manifest.dataset,
        images=sum(len(shards) for shards in splits),
        shards=sum(len(info.shards) for info in splits[0].manifest.splits.values()),
        sampled=sampled,
        reading=reading,
    )


def _opened(folder: Path) -> list[Shards]:
    manifest = Manifest.read(folder)
    if manifest is None:
        raise UserError(f"There are no shards in {folder}.")
    return [Shards(folder, split) for split in manifest.splits]


def _compare(shards: Shards) -> int:
    """Compare the checksums of some images, and return of how many."""
    rows = _some(shards, _SAMPLE)
    shards.read(rows)
    return len(rows)


def _some(shards: Shards, most: int) -> NDArray[np.int64]:
    return np.random.default_rng().choice(len(shards), min(most, len(shards)), replace=False)


def _measure(shards: Shards) -> Reading:
    """Read images as the loader does, many at a time from anywhere, from the disk and not from memory."""
    found = shards.index[_some(shards, _IMAGES)]
    files = {
        number: os.open(shards.folder / f"{shard_name(number)}.tar", os.O_RDONLY)
        for number in set(found["shard"].tolist())
    }
    try:
        fields = (found[name].tolist() for name in ("shard", "offset", "size"))
        places = [(files[shard], offset, size) for shard, offset, size in zip(*fields, strict=True)]
        for file in files.values():
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
            # The whole file, for what the cache holds in one piece goes only as a piece.
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        cold = not any(_is_cached(*place) for place in places[:_ASKED])
        return _timed(places, cold)
    finally:
        for file in files.values():
            os.close(file)


def _timed(places: Sequence[tuple[int, int, int]], cold: bool) -> Reading:
    start = time.perf_counter()

    def fetch(place: tuple[int, int, int]) -> int:
        file, offset, size = place
        return len(os.pread(file, size, offset)) if time.perf_counter() - start < _SECONDS else 0

    with ThreadPoolExecutor(_TOGETHER) as pool:
        sizes = [size for size in pool.map(fetch, places) if size]
    return Reading(sum(sizes), len(sizes), time.perf_counter() - start, cold)


def _is_cached(file: int, offset: int, size: int) -> bool:
    """Return whether bytes are in the page cache, or may be: not every file system tells."""
    try:
        return os.preadv(file, [bytearray(size)], offset, os.RWF_NOWAIT) > 0
    except BlockingIOError:
        return False
    except OSError:
        return True
