"""Loader throughput by hardware decoder load and number of threads."""

import time

import numpy as np

from _gpu.bench import NO_JITTER, Bench, Figures
from fasticcl.bench.training import loader_warmup
from fasticcl.bench.workload import Workload


def decode(bench: Bench) -> Figures:
    """Time every batch of the loader alone, by data.hw_decoder_load and number of threads."""
    figures: Figures = {}
    loads = bench.sizes.loads if bench.gpu is not None else bench.sizes.loads[:1]
    preset, encoder, _ = bench.sizes.networks[0]
    for load in loads:
        for threads in bench.sizes.threads:
            settings = (f"data.hw_decoder_load={load}", f"engine.workers={threads}", NO_JITTER)
            workload = bench.workload(preset, encoder, bench.sizes.batch_size, *settings)
            milliseconds = batch_times(workload, bench.sizes.batches)
            figures[f"load {load:g}, {threads} threads"] = {
                "images_per_second": 1000 * bench.sizes.batch_size / float(np.mean(milliseconds)),
                "batch_ms_p50": float(np.percentile(milliseconds, 50)),
                "batch_ms_p99": float(np.percentile(milliseconds, 99)),
            }
    return figures


def batch_times(workload: Workload, count: int) -> list[float]:
    batches, taken = workload.loader().batches("warmup"), []
    for _ in range(loader_warmup(workload.config) + count):
        began = time.perf_counter()
        next(batches)
        workload.machine.synchronize()
        taken.append(1000 * (time.perf_counter() - began))
    return taken[-count:]
