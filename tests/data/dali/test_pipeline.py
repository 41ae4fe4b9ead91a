"""Pipelines that are garbage-collected in threads other than the one that created them."""

import subprocess
import sys

import pytest
import torch
from nvidia.dali import fn, types

from fasticcl.data.dali.pipeline import GraphPipeline, PipelineOptions

# Drops a running pipeline inside a reference cycle and runs the garbage collector in one of its own threads:
# the thread that resizes a batch, or one of the threads that resize an image.
DROP = """
import gc, sys, threading, weakref
from pathlib import Path
import fasticcl.data.dali.graph as graph
import fasticcl.data.dali.resize as resize
from fasticcl.config import Data
from fasticcl.data.loader import Loader
from fasticcl.data.plan import Plan
from fasticcl.shards.reader import Shards

shards = Shards(Path(sys.argv[1]), "train")
plan = Plan(shards.index, shards.counts, Data(dataset="folder", dir="unused"), batch_size=4, seed=0)
gc.collect()
gc.disable()

def drop(module, name):
    original, working, dropped, collected = getattr(module, name), *(threading.Event() for _ in range(3))

    def collecting(function):
        def collect_first(*arguments):
            if not working.is_set():
                working.set()
                dropped.wait(60)
                gc.collect()
                collected.set()
            return function(*arguments)
        return collect_first

    if module is graph:
        setattr(module, name, lambda *arguments: collecting(original(*arguments)))
    else:
        setattr(module, name, collecting(original))
    pipeline, _ = Loader(shards, plan, threads=2)._pipeline("warmup", 0)
    pipeline.schedule_run()
    working.wait(60)
    reference, cycle = weakref.ref(pipeline), [pipeline]
    cycle.append(cycle)
    del pipeline, cycle
    dropped.set()
    collected.wait(60)
    assert reference() is None
    print(next(Loader(shards, plan, threads=2).batches("warmup")).x.shape[0])
    setattr(module, name, original)

drop(graph, "resizer")
drop(resize, "resized_square")
"""


def test_pipeline_collected_in_its_own_thread_does_not_block_others(photo_shards):
    command = [sys.executable, "-c", DROP, str(photo_shards)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert (process.returncode, process.stdout, process.stderr) == (0, "4\n4\n", "")


# Deletes pipelines in threads that have created none, with a DALI that has renamed a private attribute.
RENAMED = """
import threading
from nvidia.dali import Pipeline, fn
from fasticcl.data.dali import pipeline
from fasticcl.data.dali.pipeline import GraphPipeline, PipelineOptions

def build():
    pipeline = GraphPipeline(PipelineOptions(batch_size=2, threads=1, prefetch=1, gpu=None))
    with pipeline:
        pipeline.set_outputs(fn.constant(idata=7))
    pipeline.build()
    return pipeline

class Native:
    def __init__(self, native):
        self.native = native

for missing in ("nothing", "_pipe", "Shutdown"):
    pipelines = [build()]
    if missing == "_pipe":
        pipelines[0].native = pipelines[0].__dict__.pop("_pipe")
    elif missing == "Shutdown":
        pipelines[0]._pipe = Native(pipelines[0]._pipe)
    thread = threading.Thread(target=pipelines.clear)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    Pipeline._pipes.clear()  # DALI 2.4 itself would use the missing name at exit
    print(len(pipeline._kept_alive), len(pipeline._deleted), build().tensors()[0].flatten().tolist())
"""


def test_pipeline_is_kept_alive_if_dali_renames_private_attributes():
    process = subprocess.run([sys.executable, "-c", RENAMED], capture_output=True, text=True, timeout=90)
    expected = "0 1 [7, 7]\n1 0 [7, 7]\n2 0 [7, 7]\n"
    assert (process.returncode, process.stdout, process.stderr) == (0, expected, "")


def build(copy_outputs):
    options = PipelineOptions(batch_size=2, threads=1, prefetch=1, gpu=None, copy_outputs=copy_outputs)
    pipeline = GraphPipeline(options)
    with pipeline:
        outputs = fn.external_source(
            lambda i: [torch.full((2, 4, 4, 3), float(i)).numpy(), torch.tensor([i, i]).numpy()],
            num_outputs=2,
            dtype=[types.FLOAT, types.INT64],
        )
        pipeline.set_outputs(*outputs)
    pipeline.build()
    return pipeline


@pytest.mark.parametrize("copy_outputs", [False, True])
def test_outputs_are_shared_or_copied_as_the_options_say(monkeypatch, copy_outputs):
    """A tensor from DLPack returns its memory to DALI when it is freed, which CUDA graphs do not allow."""
    shared, share = [], torch.from_dlpack
    monkeypatch.setattr(torch, "from_dlpack", lambda each: shared.append(each) or share(each))
    pipeline = build(copy_outputs)
    batches = [pipeline.tensors() for _ in range(4)]
    assert len(shared) == (0 if copy_outputs else 8)
    for number, (images, labels) in enumerate(batches):
        assert images.shape == (2, 3, 4, 4)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert (images == number).all()
        assert labels.tolist() == [number] * 2
        assert labels.dtype == torch.int64


@pytest.mark.parametrize("copy_outputs", [False, True])
def test_copied_outputs_are_in_the_memory_of_torch(monkeypatch, copy_outputs):
    pipeline, address = build(copy_outputs), []
    run = pipeline.run

    def watched(*arguments):
        outputs = run(*arguments)
        address.append(outputs[0].as_tensor().data_ptr())
        return outputs

    monkeypatch.setattr(pipeline, "run", watched)
    (images, _), (kept,) = pipeline.tensors(), address
    assert (images.data_ptr() == kept) == (not copy_outputs)
