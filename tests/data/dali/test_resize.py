"""Resizing on the CPU, compared with the DALI operator used on the GPU, and the resizing threads."""

import gc
import subprocess
import sys
import threading

import numpy as np
import pytest
from nvidia.dali import Pipeline, fn, types

from fasticcl.config import Data
from fasticcl.data.dali import graph
from fasticcl.data.dali.graph_inputs import GraphSpec
from fasticcl.data.dali.pipeline import PipelineOptions
from fasticcl.data.dali.resize import resized_by_dali, resizer
from fasticcl.data.loader import Loader
from fasticcl.data.plan import Plan
from fasticcl.errors import TrainingFailed
from fasticcl.shards.reader import Shards
from tests.support.images import noise

SIDE = 64


@pytest.fixture(scope="module")
def batch():
    """Images smaller and larger than their resized sizes, which may exceed the crop in each direction."""
    rng = np.random.default_rng(0)
    shapes = [(40, 50), (200, 300), (64, 64), (64, 90), (31, 260), (1, 1), (150, 70)]
    images = [np.array(noise(rng, *shape)) for shape in shapes]
    sizes = np.array([[64, 64], [64, 96], [64, 64], [70, 64], [100, 65], [64, 64], [80, 90]], np.float32)
    cuts = np.stack([rng.integers(0, space + 1) for space in sizes.astype(int) - SIDE]).astype(np.int32)
    return images, list(sizes), list(cuts), list(np.array([0, 1, 0, 1, 1, 0, 1], np.int32))


def test_resizer_matches_the_operator_of_the_gpu(batch):
    pipeline = Pipeline(batch_size=len(batch[0]), num_threads=1, device_id=None)
    with pipeline:
        image, *windows = fn.external_source(
            source=lambda: batch,
            num_outputs=4,
            batch=True,
            dtype=[types.UINT8, types.FLOAT, types.INT32, types.INT32],
            ndim=[3, 1, 1, 0],
            layout=["HWC", None, None, None],
        )
        stream = dict(zip(("size", "cut", "flip"), windows, strict=True))
        data = Data(dataset="folder", dir="unused", image_size=SIDE)
        options = PipelineOptions(len(batch[0]), threads=1, prefetch=1, gpu=0)
        pipeline.set_outputs(graph.resize(image, stream, GraphSpec(data), options))
    pipeline.build()
    (expected,) = pipeline.run()
    for image, other in zip(resizer(SIDE, 2)(*batch), expected, strict=True):
        difference = image.astype(int) - np.asarray(other)
        assert difference.shape == (SIDE, SIDE, 3)
        # DALI rounds once, torch after each direction. Noise is the worst case.
        assert np.abs(difference).max() <= 2
        assert np.abs(difference).mean() < 0.5


@pytest.mark.parametrize("threads", [2, 3, 20])
def test_result_does_not_depend_on_the_number_of_threads(batch, threads):
    for image, other in zip(resizer(SIDE, 1)(*batch), resizer(SIDE, threads)(*batch), strict=True):
        assert np.array_equal(image, other)


def image_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith(("resize", "saturation"))]


def test_threads_end_when_the_batches_are_closed(photo_shards):
    shards = Shards(photo_shards, "train")
    data = Data(dataset="folder", dir="unused", color_jitter=(0.4, 0.4, 0.4))
    plan = Plan(shards.index, shards.counts, data, batch_size=4, seed=0)
    before = image_threads()
    batches = Loader(shards, plan, threads=2).batches("interpolative")
    next(batches)
    started = [thread for thread in image_threads() if thread not in before]
    assert {thread.name.split("_")[0] for thread in started} == {"resize", "saturation"}
    batches.close()
    gc.collect()  # DALI's operator forms a reference cycle
    for thread in started:
        thread.join(20)
    assert not any(thread.is_alive() for thread in started)


def test_process_can_exit_while_batches_are_prepared(photo_shards):
    script = f"""
from pathlib import Path
from fasticcl.config import Data
from fasticcl.data.loader import Loader
from fasticcl.data.plan import Plan
from fasticcl.errors import TrainingFailed
from fasticcl.shards.reader import Shards
shards = Shards(Path({str(photo_shards)!r}), "train")
plan = Plan(shards.index, shards.counts, Data(dataset="folder", dir="unused"), batch_size=8, seed=0)
batches = Loader(shards, plan, threads=2, prefetch=4).batches("interpolative")
next(batches)
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (process.returncode, process.stderr) == (0, "")


def test_failed_pipeline_is_explained(monkeypatch):
    def run(*_):
        raise RuntimeError("Critical error in pipeline:\nencountered:\n\nstd::bad_alloc\n")

    monkeypatch.setattr(Pipeline, "run", run)
    with pytest.raises(TrainingFailed, match=r"^Out of memory in DALI: std::bad_alloc\. Use"):
        resized_by_dali([np.zeros((8, 8, 3), np.uint8)], side=4, threads=1)
