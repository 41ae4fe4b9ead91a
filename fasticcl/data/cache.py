"""Decoded images of a split, kept in memory or on the device: the graph starts there if there is room."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fasticcl.data import graph
from fasticcl.errors import TrainingFailed, UserError
from fasticcl.shards.reader import DamagedImages, Shards
from fasticcl.system.rank_environment import local_world_size
from fasticcl.system.resources import available_cores, memory_left

CacheLocation = Literal["off", "host", "device"]
"""Where decoded images are: nowhere, in the memory of the machine, or in that of the device."""
CacheSetting = Literal["auto"] | CacheLocation

_SMALL = 64  # pixels; "auto" keeps images up to this side: CIFAR and its like, where decoding costs most
_AUTO_LIMIT = 2**30  # bytes that "auto" takes
_SHARES = {"host": 0.8, "device": 0.5}  # of the memory that is free; networks live on the device too
_BATCH = 256  # images decoded at a time


class Cache:
    """Images of a split, decoded once.

    Args:
        shards: the split.
        rows: those of its images that are wanted, sorted.
        threads: threads that decode.
        found_bad: called with the rows of images that cannot be read, and the reason.
        location: host or device.
        gpu: number of the device; None: the CPU.
    """

    def __init__(
        self,
        shards: Shards,
        rows: NDArray[np.integer],
        threads: int,
        found_bad: Callable[[list[int], str], None],
        *,
        location: CacheLocation = "host",
        gpu: int | None = None,
    ) -> None:
        self.image_format: Literal["decoded", "resident"] = "resident" if location == "device" else "decoded"
        """Format of what `graph_input` returns: arrays, or tensors on the device."""
        on_gpu = gpu is not None and location == "device"
        self.cuda_stream = torch.cuda.Stream(gpu, priority=-1) if on_gpu else None
        """Stream on which `graph_input` gathers images on a GPU, to not wait for the queued training."""
        heights, widths = (shards.index[side].astype(np.int64) for side in ("height", "width"))
        self._shapes = [*zip(heights.tolist(), widths.tolist(), strict=True)]
        self._uniform = len(set(self._shapes)) == 1
        self._ends = [0, *np.cumsum(3 * heights * widths).tolist()]
        device = torch.device("cuda", gpu) if on_gpu else torch.device("cpu")
        self._pixels = torch.zeros(self._ends[-1], dtype=torch.uint8, device=device)
        for first in range(0, len(rows), _BATCH):
            batch = rows[first : first + _BATCH]
            self._fill(batch, _decoded(shards, batch, threads, found_bad))
        self._host = None if location == "device" else self._pixels.numpy()
        if on_gpu:
            torch.cuda.synchronize(gpu)

    def graph_input(self, rows: NDArray[np.integer]) -> Any:
        """Return images, each [height, width, 3] RGB: views into the cache, or a tensor [B, H, W, 3] of all.

        On a GPU they are there when what is queued on `cuda_stream` is done.
        """
        if self._host is not None:
            return [self._image(self._host, row) for row in rows.tolist()]
        if not self._uniform:
            return [self._image(self._pixels, row) for row in rows.tolist()]
        with torch.cuda.stream(self.cuda_stream):
            places = torch.from_numpy(rows.astype(np.int64)).to(self._pixels.device)
            return self._pixels.view(-1, *self._shapes[0], 3).index_select(0, places)

    def _fill(self, rows: NDArray[np.integer], images: list[tuple[int, NDArray[np.uint8]]]) -> None:
        """Put images where they belong, side by side first: one transfer takes them to a device."""
        begin, end = self._ends[rows[0]], self._ends[rows[-1] + 1]
        pixels = np.zeros(end - begin, np.uint8)
        for row, image in images:
            pixels[self._ends[row] - begin : self._ends[row + 1] - begin] = image.ravel()
        self._pixels[begin:end] = torch.from_numpy(pixels)

    def _image(self, pixels: Any, row: int) -> Any:
        return pixels[self._ends[row] : self._ends[row + 1]].reshape(*self._shapes[row], 3)


def evaluation_cache(shards: Shards, location: CacheLocation = "host", gpu: int | None = None) -> Cache:
    """Return the decoded images of an evaluated split, kept on the host or the device.

    Raises:
        TrainingFailed: an image cannot be read.
    """

    def refuse(rows: list[int], reason: str) -> None:
        names = ", ".join(shards.name(row) for row in rows)
        raise TrainingFailed(f"{names}: {reason}; convert {shards.folder.parent} again.")

    return Cache(shards, np.arange(len(shards)), available_cores(), refuse, location=location, gpu=gpu)


def _decoded(
    shards: Shards, rows: NDArray[np.integer], threads: int, found_bad: Callable[[list[int], str], None]
) -> list[tuple[int, NDArray[np.uint8]]]:
    """Return rows with their images, those left out that cannot be read."""
    try:
        images = shards.read(rows)
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


def choose_cache_location(
    setting: CacheSetting, splits: Iterable[Shards], gpu: int | None = None, required: bool = True
) -> CacheLocation:
    """Return where the images of these splits are to be kept decoded.

    Args:
        setting: where they are asked for; auto: small ones on the device, or else where there is room.
        splits: what is kept together.
        gpu: number of the device; None: the CPU, whose memory is the machine's.
        required: if True, a requested cache that does not fit is an error; if False, nothing is cached,
            which gives the same batches.

    Raises:
        UserError: they are asked for and do not fit into the memory that is free.
    """
    splits = [*splits]
    needed = sum(decoded_bytes(shards) for shards in splits)
    if setting == "auto":
        small = all(shards.index[side].max() <= _SMALL for shards in splits for side in ("height", "width"))
        locations: tuple[CacheLocation, ...] = ("host",) if gpu is None else ("device", "host")
        fits = (each for each in locations if needed <= min(_AUTO_LIMIT, cache_budget(each, gpu)))
        return next(fits, "off") if small else "off"
    if setting != "off" and needed > cache_budget(setting, gpu):
        if not required:
            return "off"
        raise UserError(
            f"--cache {setting}: the decoded images take {needed / 2**30:.1f} GiB, more than "
            f"{_SHARES[setting]:.0%} of the {free_memory(setting, gpu) / 2**30:.1f} GiB that are free for "
            "each rank; use --cache off, or convert with a smaller --short-side."
        )
    return setting


def cache_budget(location: CacheLocation, gpu: int | None) -> int:
    """Return how many bytes decoded images may take there."""
    return int(_SHARES[location] * free_memory(location, gpu))


def decoded_bytes(shards: Shards) -> int:
    """Return how many bytes the decoded images of a split take."""
    return 3 * int((shards.index["height"].astype(np.int64) * shards.index["width"]).sum())


def free_memory(location: CacheLocation, gpu: int | None) -> int:
    """Return the bytes of memory that are free there, that of the machine divided among its ranks."""
    if location == "device" and gpu is not None:
        return torch.cuda.mem_get_info(gpu)[0]
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = 1024 * int(lines["MemAvailable"].split()[0])
    left = memory_left()
    free = free if left is None else min(free, left)
    return free // local_world_size()
