"""Detection and replacement of damaged images."""

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from _gpu.bench import Bench, Figures
from fasticcl.bench.synthetic_images import write_shards
from fasticcl.config import Data
from fasticcl.data.batch import StreamBatch
from fasticcl.data.loader import Loader
from fasticcl.data.plan import Plan
from fasticcl.shards.reader import Shards


def corrupt(bench: Bench) -> Figures:
    """Truncate some images, flip a bit of another on disk, and load an epoch."""
    contents = [*bench.images.contents]
    truncated, flipped = [1, 3, 8], 5  # all in the largest class, which has other images to replace them
    for row in truncated:
        contents[row] = contents[row][: len(contents[row]) // 3]
    folder = bench.folder / "corrupt"
    write_shards(replace(bench.images, contents=contents), folder)
    shards = Shards(folder, "train")
    damage(folder, shards, flipped)
    data = Data(dataset="folder", dir=folder, image_size=bench.sizes.side, eval_resize=0)
    plan = Plan(shards.index, shards.counts, data, batch_size=bench.sizes.batch_size, seed=0)
    warnings: list[str] = []
    loader = Loader(shards, plan, gpu=bench.gpu, warn=warnings.append)
    batches, took, right = loader.batches("warmup"), [], True
    for number in range(loader.steps):
        began = time.perf_counter()
        batch = next(batches)
        assert isinstance(batch, StreamBatch)
        right = right and batch.y.cpu().tolist() == plan.batch("warmup", 0, number).streams[0].labels.tolist()
        right = right and bool(batch.x.isfinite().all())
        took.append(time.perf_counter() - began)
    return {
        "planted": sorted([*truncated, flipped]),
        "found": loader.bad_samples.rows,
        "named": len(warnings),
        "batches": len(took),
        "labels_as_planned": right,
        "batch_ms_median": 1000 * float(np.median(took)),
        "batch_ms_max": 1000 * max(took),
    }


def damage(folder: Path, shards: Shards, row: int) -> None:
    entry = shards.index[row]
    with open(folder / "train" / f"shard-{int(entry['shard']):06d}.tar", "r+b") as file:
        file.seek(int(entry["offset"]) + int(entry["size"]) // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
