"""Decoded images of a split, kept in memory: the graph starts from them where there is room."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fasticcl.data import graph
from fasticcl.data.control_group import memory_left
from fasticcl.data.shards import DamagedImages, Shards
from fasticcl.errors import UserError

Wanted = Literal["auto", "host", "off"]

_SMALL = 64  # pixels; "auto" keeps images up to this side: CIFAR and its like, where decoding costs most
_MOST_UNASKED = 2**30  # bytes that "auto" takes
_SHARE = 0.8  # of the memory that is free
_BATCH = 256  # images decoded at a time


class Cache:
    """All images of a split, decoded once.

    Args:
        shards: the split.
        threads: threads that decode.
        found_bad: called with the rows of images that cannot be read, and the reason.
    """

    def __init__(self, shards: Shards, threads: int, found_bad: Callable[[list[int], str], None]) -> None:
        heights, widths = (shards.index[side].astype(np.int64) for side in ("height", "width"))
        self._shapes = [*zip(heights.tolist(), widths.tolist(), strict=True)]
        self._ends = np.cumsum(3 * heights * widths).tolist()
        self._pixels = np.zeros(self._ends[-1], dtype=np.uint8)
        for first in range(0, len(shards), _BATCH):
            rows = np.arange(first, min(first + _BATCH, len(shards)))
            for row, image in _decoded(shards, rows, threads, found_bad):
                self._image(row)[:] = image

    def pictures(self, rows: NDArray[np.integer]) -> list[NDArray[np.uint8]]:
        """Return images, each [height, width, 3] RGB, a view into the cache."""
        return [self._image(row) for row in rows.tolist()]

    def _image(self, row: int) -> NDArray[np.uint8]:
        height, width = self._shapes[row]
        end = self._ends[row]
        return self._pixels[end - 3 * height * width : end].reshape(height, width, 3)


def _decoded(
    shards: Shards, rows: NDArray[np.integer], threads: int, found_bad: Callable[[list[int], str], None]
) -> list[tuple[int, NDArray[np.uint8]]]:
    """Return rows with their images, those left out that cannot be read."""
    try:
        images = shards.images(rows)
    except DamagedImages as error:
        bad, reason = error.rows, error.reason
    else:
        try:
            return [*zip(rows.tolist(), graph.decoded(images, threads), strict=True)]
        except RuntimeError:
            bad = [row for row, image in zip(rows.tolist(), images, strict=True) if not graph.decodes(image)]
            reason = "cannot be decoded"
            if not bad:
                raise
    found_bad(bad, reason)
    good = np.setdiff1d(rows, bad)
    return _decoded(shards, good, threads, found_bad) if len(good) else []


def is_wanted(wanted: Wanted, splits: Iterable[Shards]) -> bool:
    """Return whether the images of these splits are to be kept decoded.

    Raises:
        UserError: they are asked for and do not fit into the memory that is free.
    """
    splits = [*splits]
    needed = sum(decoded_bytes(shards) for shards in splits)
    if wanted == "auto":
        small = all(shards.index[side].max() <= _SMALL for shards in splits for side in ("height", "width"))
        return small and needed <= min(_MOST_UNASKED, _SHARE * free_memory())
    if wanted == "host" and needed > _SHARE * free_memory():
        raise UserError(
            f"--cache host: the decoded images take {needed / 2**30:.1f} GiB, more than {_SHARE:.0%} of the "
            f"{free_memory() / 2**30:.1f} GiB that are free for each rank; use --cache off, or convert with "
            "a smaller --short-side."
        )
    return wanted == "host"


def decoded_bytes(shards: Shards) -> int:
    """Return how many bytes the decoded images of a split take."""
    return 3 * int((shards.index["height"].astype(np.int64) * shards.index["width"]).sum())


def free_memory() -> int:
    """Return the bytes of memory that are free, divided among the ranks of the machine."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = 1024 * int(lines["MemAvailable"].split()[0])
    left = memory_left()
    free = free if left is None else min(free, left)
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
