"""Check 6: throughput of the loader alone, by threads and share of the hardware JPEG engine."""

import time

from _first_light.report import Report
from _first_light.setup import Setup
from _first_light.workloads import photograph_workload, start
from fasticcl.bench.training import loader_warmup
from fasticcl.bench.workload import Workload


def check(setup: Setup, report: Report) -> None:
    """Measure pairs of 224×224 with the augmentation of ImageNet-LT. Images of both streams are counted."""
    start(setup)
    batch_size, side, threads, count = (4, 32, (1, 2), 3) if setup.small else (256, 224, (8, 14), 24)
    loads = ("default", "0") if setup.gpu is not None else ("0",)
    if setup.gpu is None:
        report.skip("hardware JPEG engine", "it needs a GPU")
    for number in threads:
        for load in loads:
            name = f"{number} threads, hardware load {load}"
            settings = [f"engine.workers={number}"]
            settings += [] if load == "default" else [f"data.hw_decoder_load={load}"]
            with report.part(name):
                workload = photograph_workload(setup, "resnet18", batch_size, side, *settings)
                report.add(name, {"images_per_second": round(throughput(workload, count), 1)})
    rates = {name: figures["images_per_second"] for name, figures in report.figures.items()}
    fastest = max(rates, key=rates.__getitem__, default="")
    report.note = f"up to {rates.get(fastest, 0):,.0f} images/s ({fastest})"


def throughput(workload: Workload, count: int) -> float:
    """Return images per second of a new loader, without a consumer."""
    batches = workload.loader().batches("interpolative")
    for _ in range(loader_warmup(workload.config)):
        next(batches)
    workload.machine.synchronize()
    began = time.perf_counter()
    images = sum(next(batches).images for _ in range(count))
    workload.machine.synchronize()
    return images / (time.perf_counter() - began)
