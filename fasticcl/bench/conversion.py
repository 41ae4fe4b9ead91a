"""Throughput of ``fasticcl convert folder``, with and without resizing."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fasticcl.bench.measure import Task, Timing
from fasticcl.bench.result import Result
from fasticcl.bench.sizes import Sizes
from fasticcl.bench.synthetic_images import generate_images, write_files
from fasticcl.convert.conversion import convert
from fasticcl.convert.layouts import registry
from fasticcl.convert.source import Source
from fasticcl.shards.shrink import Shrink
from fasticcl.system.resources import available_cores

_IMAGES = 256
_WARMUP = 1  # conversions
_SHORT_SIDE, _QUALITY = 256, 90
_MODES: dict[str, Shrink | None] = {
    "bytes kept": None,
    f"short side {_SHORT_SIDE}": Shrink("short", _SHORT_SIDE, _QUALITY),
}
_SHARDS_PER_WORKER = 4  # keeps all workers busy until the end


def measure_conversion(
    scratch: Path, data: Path | None, workers: int | None, images: int | None, timing: Timing
) -> Result:
    """Measure conversion with the bytes kept and with a short side of 256 pixels.

    Args:
        scratch: folder for synthetic images and for the shards.
        data: folder of images. None: synthetic images.
        workers: conversion workers. None: one per core.
        images: number of images. None: 256.
        timing: number and length of the runs.

    Raises:
        UserError: ``data`` is not a folder of images.
    """
    count, threads = images or _IMAGES, workers or available_cores()
    notes = ()
    if data is None:
        timing.show_status("generating images to convert")
        generated = generate_images(count, min(20, count), threads)
        data = scratch / "files"
        write_files(generated, data)
        notes = (
            f"conversion: {len(generated.contents)} synthetic JPEGs of "
            f"{generated.width}×{generated.height} pixels, {generated.mean_bytes / 1000:.1f} kB on average, "
            "in the page cache. The first image of each class is converted twice, as training and val image",
        )
    source = open_source(data, count)
    tasks = {
        f"convert {mode}": conversion_task(source, shrink, threads, scratch / "converted")
        for mode, shrink in _MODES.items()
    }
    sizes = Sizes(sum(map(len, source.splits.values())))
    rates = timing(tasks, dict.fromkeys(tasks, _WARMUP))
    measured = {name: replace(rate, sizes=sizes) for name, rate in rates.items()}
    facts = {"made": bool(notes), "count": sizes.batch_size}
    return Result({"workers": threads}, facts, measured, notes=notes)


def open_source(path: Path, limit: int) -> Source:
    """Return up to ``limit`` images of a folder, as ``fasticcl convert folder`` lists them.

    Raises:
        UserError: ``path`` is not a folder of images.
    """
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    fraction = None if names & {"val", "test"} else 0.1
    return registry.read_source("folder", path, long_tail=None, limit=limit, val_fraction=fraction)


def conversion_task(source: Source, shrink: Shrink | None, workers: int, dest: Path) -> Task:
    """Return a task that converts a source repeatedly. Each conversion counts as one batch."""
    images = sum(map(len, source.splits.values()))
    shard_size = max(1, len(source.splits["train"]) // (_SHARDS_PER_WORKER * workers))

    def start() -> Iterator[int]:
        while True:
            shutil.rmtree(dest, ignore_errors=True)  # convert() skips shards that exist
            convert(source, dest, shard_size=shard_size, shrink=shrink, workers=workers)
            yield images

    return start
