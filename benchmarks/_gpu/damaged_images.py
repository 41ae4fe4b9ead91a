"""Detection and replacement of damaged images."""

import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from _gpu.bench import Bench, Figures, Row
from fasticcl.bench.synthetic_images import write_shards
from fasticcl.data.batch import StreamBatch
from fasticcl.data.loader import Loader
from fasticcl.data.plan import Plan
from fasticcl.shards.reader import Shards


def corrupt(bench: Bench) -> list[Row]:
    """Truncate some images, flip a bit of another on disk, and load two epochs."""
    return [Row("two epochs", 15, partial(load_damaged, bench))]


def load_damaged(bench: Bench) -> Figures:
    """Return the damaged images that the loader reported.

    nvJPEG may decode a truncated image to grey without an error. Such images are listed, not an error.
    """
    contents = [*bench.images.contents]
    truncated, flipped = [1, 3, 8], 5  # all in the largest class, which has other images to replace them
    for row in truncated:
        contents[row] = contents[row][: len(contents[row]) // 3]
    folder = bench.folder / "corrupt"
    write_shards(replace(bench.images, contents=contents), folder)
    shards = Shards(folder, "train")
    damage(folder, shards, flipped)
    data = bench.data(folder)
    plan = Plan(shards.index, shards.counts, data, batch_size=min(32, bench.sizes.batch_size), seed=0)
    warnings: list[str] = []
    loader = Loader(shards, plan, gpu=bench.gpu, warn=warnings.append)
    batches, took, right = loader.batches("warmup"), [], True
    for number in range(2 * loader.steps):  # an epoch leaves out an incomplete batch
        began = time.perf_counter()
        batch = next(batches)
        assert isinstance(batch, StreamBatch)
        expected = plan.batch("warmup", *divmod(number, loader.steps)).streams[0].labels.tolist()
        right = right and batch.y.cpu().tolist() == expected and bool(batch.x.isfinite().all())
        took.append(time.perf_counter() - began)
    planted, found = {*truncated, flipped}, set(loader.bad_samples.rows)
    return {
        "damaged": sorted(planted),
        "found": sorted(found),
        "decoded without an error": sorted(planted - found),
        "intact but reported": sorted(found - planted),
        "warnings": len(warnings),
        "batches": len(took),
        "labels as planned, pixels finite": right,
        "batch median, ms": 1000 * float(np.median(took)),
        "batch max, ms": 1000 * max(took),
    }


def damage(folder: Path, shards: Shards, row: int) -> None:
    entry = shards.index[row]
    with open(folder / "train" / f"shard-{int(entry['shard']):06d}.tar", "r+b") as file:
        file.seek(int(entry["offset"]) + int(entry["size"]) // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
