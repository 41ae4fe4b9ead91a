"""Loader throughput by hardware decoder load and number of threads."""

import time
from functools import partial

import numpy as np

from _gpu.bench import NO_JITTER, Bench, Figures, Row
from fasticcl.bench.training import loader_warmup
from fasticcl.bench.workload import Workload


def decode(bench: Bench) -> list[Row]:
    """Time every batch of the loader alone, by data.hw_decoder_load and number of threads."""
    loads = bench.sizes.loads if bench.gpu is not None else bench.sizes.loads[:1]
    return [
        Row(f"load {load:g}, {threads} threads", 4, partial(batch_rate, bench, load, threads), "decode")
        for load in loads
        for threads in bench.sizes.threads
    ]


def batch_rate(bench: Bench, load: float, threads: int) -> Figures:
    settings = (f"data.hw_decoder_load={load}", f"engine.workers={threads}", NO_JITTER)
    preset, encoder, _ = bench.sizes.networks["resnet50"]
    workload = bench.workload(preset, encoder, bench.sizes.batch_size, *settings)
    milliseconds = batch_times(workload, bench.sizes.batches)
    return {
        "images/s": 1000 * bench.sizes.batch_size / float(np.mean(milliseconds)),
        "batch p50, ms": float(np.percentile(milliseconds, 50)),
        "batch p99, ms": float(np.percentile(milliseconds, 99)),
        "batch min, ms": min(milliseconds),
        "batch max, ms": max(milliseconds),
    }


def batch_times(workload: Workload, count: int) -> list[float]:
    batches, taken = workload.loader().batches("warmup"), []
    for _ in range(loader_warmup(workload.config) + count):
        began = time.perf_counter()
        next(batches)
        workload.machine.synchronize()
        taken.append(1000 * (time.perf_counter() - began))
    return taken[-count:]
