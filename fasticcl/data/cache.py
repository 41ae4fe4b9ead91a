"""A cache of the decoded images of a split, in host or device memory."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fasticcl.data.bad_samples import UnreadableImages
from fasticcl.data.dali.decoding import Decoder, decoded, undecodable
from fasticcl.data.dali.errors import BatchFailed
from fasticcl.errors import UserError
from fasticcl.shards.reader import DamagedImages, Shards
from fasticcl.system.rank_environment import local_world_size
from fasticcl.system.resources import decoding_threads, memory_left

CacheLocation = Literal["off", "host", "device"]
"""Memory that caches decoded images: none, host memory or device memory."""
CacheSetting = Literal["auto"] | CacheLocation
"""A location, or auto to choose one for small images."""

_SMALL = 64  # largest side in pixels that "auto" caches (CIFAR), because decoding dominates for small images
_AUTO_LIMIT = 2**30  # largest cache of "auto" in bytes
_SHARES = {"host": 0.8, "device": 0.5}  # of the free memory, because the network needs device memory too
_BATCH = 256  # images decoded at a time


class Cache:
    """The images of a split, decoded once.

    Args:
        shards: the split.
        rows: rows of the images to decode, sorted.
        threads: threads that decode.
        report_bad: called with the rows of unreadable images and the reason.
        location: host or device.
        gpu: device number, or None for the CPU.
    """

    def __init__(
        self,
        shards: Shards,
        rows: NDArray[np.integer],
        threads: int,
        report_bad: Callable[[list[int], str], None],
        *,
        location: CacheLocation = "host",
        gpu: int | None = None,
    ) -> None:
        self.image_format: Literal["decoded", "resident"] = "resident" if location == "device" else "decoded"
        """Format of the images of `graph_input`: arrays, or tensors on the device."""
        on_gpu = gpu is not None and location == "device"
        self.cuda_stream = torch.cuda.Stream(gpu, priority=-1) if on_gpu else None
        """Stream on which `graph_input` gathers images on a GPU without waiting for queued training steps."""
        heights, widths = (shards.index[side].astype(np.int64) for side in ("height", "width"))
        self._shapes = [*zip(heights.tolist(), widths.tolist(), strict=True)]
        self._uniform = len(set(self._shapes)) == 1
        self._ends = [0, *np.cumsum(3 * heights * widths).tolist()]
        device = torch.device("cuda", gpu) if on_gpu else torch.device("cpu")
        self._pixels = torch.zeros(self._ends[-1], dtype=torch.uint8, device=device)
        for first in range(0, len(rows), _BATCH):
            batch = rows[first : first + _BATCH]
            self._fill(batch, decode_rows(shards, batch, threads, report_bad))
        self._host = None if location == "device" else self._pixels.numpy()
        if on_gpu:
            torch.cuda.synchronize(gpu)

    def graph_input(self, rows: NDArray[np.integer]) -> Any:
        """Return RGB images as views [height, width, 3] of the cache, or as one tensor [B, H, W, 3].

        The tensor is returned if all images have the same size and are on the device. On a GPU it is ready
        when the work queued on `cuda_stream` is done.
        """
        if self._host is not None:
            return [self._image(self._host, row) for row in rows.tolist()]
        if not self._uniform:
            return [self._image(self._pixels, row) for row in rows.tolist()]
        with torch.cuda.stream(self.cuda_stream):
            indices = torch.from_numpy(rows.astype(np.int64))
            if self.cuda_stream is not None:
                indices = indices.pin_memory()  # from pageable memory, the copy would wait for the stream
            indices = indices.to(self._pixels.device, non_blocking=True)
            return self._pixels.view(-1, *self._shapes[0], 3).index_select(0, indices)

    def _fill(self, rows: NDArray[np.integer], images: list[tuple[int, NDArray[np.uint8]]]) -> None:
        """Write images to the cache. They are joined first, and one transfer copies them to the device."""
        begin, end = self._ends[rows[0]], self._ends[rows[-1] + 1]
        pixels = np.zeros(end - begin, np.uint8)
        for row, image in images:
            pixels[self._ends[row] - begin : self._ends[row + 1] - begin] = image.ravel()
        self._pixels[begin:end] = torch.from_numpy(pixels)

    def _image(self, pixels: Any, row: int) -> Any:
        return pixels[self._ends[row] : self._ends[row + 1]].reshape(*self._shapes[row], 3)


def evaluation_cache(shards: Shards, location: CacheLocation = "host", gpu: int | None = None) -> Cache:
    """Return a cache of all images of an evaluated split.

    Raises:
        UnreadableImages: an image cannot be read.
        TrainingFailed: DALI failed for another reason.
    """

    def fail(rows: list[int], reason: str) -> None:
        names = ", ".join(shards.name(row) for row in rows)
        raise UnreadableImages(f"{names}: {reason}. Convert {shards.folder.parent} again.")

    threads = decoding_threads(gpu is not None)
    return Cache(shards, np.arange(len(shards)), threads, fail, location=location, gpu=gpu)


def decode_rows(
    shards: Shards, rows: NDArray[np.integer], threads: int, report_bad: Callable[[list[int], str], None]
) -> list[tuple[int, NDArray[np.uint8]]]:
    """Return rows and their decoded images, without the unreadable ones.

    The arguments are those of `Cache`.
    """
    try:
        images = shards.graph_input(rows)
    except DamagedImages as error:
        bad, reason = error.rows, error.reason
    else:
        try:
            return [*zip(rows.tolist(), decoded(images, threads), strict=True)]
        except BatchFailed:
            bad, reason = rows[undecodable(images, Decoder(threads))].tolist(), "cannot be decoded"
            if not bad:
                raise
    report_bad(bad, reason)
    good = np.setdiff1d(rows, bad)
    return decode_rows(shards, good, threads, report_bad) if len(good) else []


def choose_cache_location(
    setting: CacheSetting, splits: Iterable[Shards], gpu: int | None = None, required: bool = True
) -> CacheLocation:
    """Return the location of the decoded images of several splits.

    Args:
        setting: the requested location. auto caches only small images, on the device if they fit there,
            else on the host if they fit.
        splits: the splits that are cached together.
        gpu: device number, or None for the CPU, which uses host memory.
        required: if True, a requested cache that does not fit is an error. If False, nothing is cached in
            this case, and the batches are the same.

    Raises:
        UserError: the requested cache does not fit into the free memory.
    """
    splits = [*splits]
    needed = sum(decoded_bytes(shards) for shards in splits)
    if setting == "auto":
        small = all(shards.index[side].max() <= _SMALL for shards in splits for side in ("height", "width"))
        locations: tuple[CacheLocation, ...] = ("host",) if gpu is None else ("device", "host")
        fitting = (loc for loc in locations if needed <= min(_AUTO_LIMIT, cache_budget(loc, gpu)))
        return next(fitting, "off") if small else "off"
    if setting != "off" and needed > cache_budget(setting, gpu):
        if not required:
            return "off"
        raise UserError(
            f"--cache {setting}: the decoded images take {needed / 2**30:.1f} GiB, more than "
            f"{_SHARES[setting]:.0%} of the {free_memory(setting, gpu) / 2**30:.1f} GiB of memory that "
            "are free for each rank. Use --cache off, or convert with a smaller --short-side."
        )
    return setting


def cache_budget(location: CacheLocation, gpu: int | None) -> int:
    """Return the largest size of a cache in this location, in bytes."""
    return int(_SHARES[location] * free_memory(location, gpu))


def decoded_bytes(shards: Shards) -> int:
    """Return the size of the decoded images of a split, in bytes."""
    return 3 * int((shards.index["height"].astype(np.int64) * shards.index["width"]).sum())


def free_memory(location: CacheLocation, gpu: int | None) -> int:
    """Return the free memory of a location in bytes. Host memory is divided among the ranks on the host."""
    if location == "device" and gpu is not None:
        return torch.cuda.mem_get_info(gpu)[0]
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = 1024 * int(lines["MemAvailable"].split()[0])
    left = memory_left()
    free = free if left is None else min(free, left)
    return free // local_world_size()
