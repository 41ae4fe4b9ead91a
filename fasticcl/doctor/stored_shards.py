"""Integrity of a random sample of the shards given as ``--data``, and their read speed."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fasticcl.doctor.facts import ReadSpeed, StoredShards
from fasticcl.errors import UserError
from fasticcl.shards.manifest import Manifest
from fasticcl.shards.reader import DamagedImages, Shards, shard_name

_CHECKSUMS = 200  # images per split whose checksums are compared
_MAX_READS = 4096
_SECONDS = 1.0
_CONCURRENT_READS = 64  # the loader requests a whole batch at once
_CACHE_CHECKS = 16  # images that are looked up in the page cache


def read_shards(folder: Path) -> StoredShards:
    """Check and measure the shards in a folder, which takes about two seconds.

    The manifest, the file sizes and the indexes are checked completely, but checksums only for a random
    sample of images.
    """
    try:
        splits = _open_splits(folder)
        read_speed = _measure(splits[0])  # first, because mapping an image keeps it in the page cache
        sampled = sum(_compare_checksums(shards) for shards in splits)
    except (UserError, DamagedImages, OSError) as error:
        damaged = isinstance(error, DamagedImages)
        return StoredShards(problem=f"changed since the conversion: {error}" if damaged else str(error))
    return StoredShards(
        dataset=splits[0].manifest.dataset,
        images=sum(len(shards) for shards in splits),
        shards=sum(len(info.shards) for info in splits[0].manifest.splits.values()),
        sampled=sampled,
        read_speed=read_speed,
    )


def _open_splits(folder: Path) -> list[Shards]:
    manifest = Manifest.read(folder)
    if manifest is None:
        raise UserError(f"There are no shards in {folder}.")
    return [Shards(folder, split) for split in manifest.splits]


def _compare_checksums(shards: Shards) -> int:
    """Compare the checksums of a random sample of images and return its size."""
    rows = _random_rows(shards, _CHECKSUMS)
    shards.read(rows)
    return len(rows)


def _random_rows(shards: Shards, limit: int) -> NDArray[np.int64]:
    return np.random.default_rng().choice(len(shards), min(limit, len(shards)), replace=False)


def _measure(shards: Shards) -> ReadSpeed:
    """Read images as the loader does, concurrently and in random order, bypassing the page cache."""
    index = shards.index[_random_rows(shards, _MAX_READS)]
    files = {
        number: os.open(shards.folder / f"{shard_name(number)}.tar", os.O_RDONLY)
        for number in set(index["shard"].tolist())
    }
    try:
        fields = (index[name].tolist() for name in ("shard", "offset", "size"))
        ranges = [(files[shard], offset, size) for shard, offset, size in zip(*fields, strict=True)]
        for file in files.values():
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
            # Drop the whole file, because the page cache drops a large folio only as a whole.
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        cold = not any(_may_be_cached(*byte_range) for byte_range in ranges[:_CACHE_CHECKS])
        return _timed_reads(ranges, cold)
    finally:
        for file in files.values():
            os.close(file)


def _timed_reads(ranges: Sequence[tuple[int, int, int]], cold: bool) -> ReadSpeed:
    start = time.perf_counter()

    def read(byte_range: tuple[int, int, int]) -> int:
        file, offset, size = byte_range
        return len(os.pread(file, size, offset)) if time.perf_counter() - start < _SECONDS else 0

    with ThreadPoolExecutor(_CONCURRENT_READS) as pool:
        sizes = [size for size in pool.map(read, ranges) if size]
    return ReadSpeed(sum(sizes), len(sizes), time.perf_counter() - start, cold)


def _may_be_cached(file: int, offset: int, size: int) -> bool:
    """Return True if bytes are in the page cache, or if the file system cannot tell."""
    try:
        return os.preadv(file, [bytearray(size)], offset, os.RWF_NOWAIT) > 0
    except BlockingIOError:
        return False
    except OSError:
        return True
