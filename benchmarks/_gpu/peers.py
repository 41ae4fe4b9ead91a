"""Loader and step compared with implementations in plain torch and torchvision."""

import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from _gpu.bench import NO_JITTER, Bench, Figures, Row
from _gpu.networks import ratio, to_figures
from _gpu.torch_baseline import AHEAD, EagerStep, plain_step, two_samplers
from fasticcl.bench.measure import Task, Timing
from fasticcl.bench.suite import ignore_status
from fasticcl.bench.synthetic_images import write_files
from fasticcl.bench.training import STEP_WARMUP, loader_task, loader_warmup, step_task
from fasticcl.bench.workload import Workload
from fasticcl.data.batch import Batch, TrainingBatch, synthetic_batch


def bare(bench: Bench) -> list[Row]:
    """Measure a bare step of torchvision's network: one forward pass, cross-entropy, backward pass, SGD."""

    def measure() -> Figures:
        workload = subject(bench)
        classes, device = workload.num_classes, workload.machine.device
        batch = synthetic_batch("warmup", bench.sizes.batch_size, bench.sizes.side, classes, device)
        step = plain_step(workload.config.method.encoder, classes, device, bench.sizes.compiled)
        return compare(bench, workload, {"bare": repeated(step, batch)}, {"bare": STEP_WARMUP})

    return [Row("step", 40, measure)]


def peers(bench: Bench) -> list[Row]:
    """Measure fasticcl and a peer in interleaved runs: two loaders, then the step of research code."""

    @cache
    def files() -> Path:
        write_files(bench.images, bench.folder / "files")
        return bench.folder / "files/train"

    def loader(name: str, encoded: bool) -> Figures:
        sizes, workload = bench.sizes, subject(bench)
        device = bench.torch_device
        source = two_samplers(files(), sizes.batch_size, sizes.workers, sizes.side, device, encoded)
        tasks = {"ours": loader_task(workload, "interpolative"), name: forever(source)}
        queues = {"ours": loader_warmup(workload.config), name: AHEAD * sizes.workers + 2}
        return compare(bench, workload, tasks, queues)

    def step() -> Figures:
        sizes, workload, device = bench.sizes, subject(bench), bench.torch_device
        batch = synthetic_batch("interpolative", sizes.batch_size, sizes.side, workload.num_classes, device)
        eager = EagerStep(workload.config.method.encoder, workload.num_classes, device)
        tasks = {"ours": step_task(workload, "interpolative"), "research code": repeated(eager, batch)}
        return compare(bench, workload, tasks, dict.fromkeys(tasks, STEP_WARMUP))

    return [
        Row("loader and decode_jpeg", 25, partial(loader, "decode_jpeg", True)),
        Row("loader and Pillow", 28, partial(loader, "Pillow", False)),
        Row("step and research code", 35, step),
    ]


def subject(bench: Bench) -> Workload:
    return bench.workload("imagenet-lt", bench.sizes.peers, bench.sizes.batch_size, NO_JITTER)


def compare(bench: Bench, workload: Workload, tasks: dict[str, Task], warmup: dict[str, int]) -> Figures:
    """Return the rates of interleaved runs, and our rate divided by that of each other system."""
    paused = {name: after_pause(task, bench.sizes.pause) for name, task in tasks.items()}
    timing = Timing(bench.sizes.peer_repeats, bench.sizes.seconds, ignore_status)
    rates = timing(paused, warmup, workload.machine.synchronize)
    others = [name for name in rates if name != "ours"] if "ours" in rates else []
    ratios = {f"ours / {name}": ratio(rates["ours"], rates[name]) for name in others}
    return {**to_figures(rates), **ratios, "settings": workload.settings()}


def forever(source: Iterator[Batch]) -> Task:
    """Return the task of continuing an iterator, so its workers are started only once."""

    def start() -> Iterator[int]:
        for batch in source:
            yield batch.images

    return start


def repeated(step: Callable[[Any], object], batch: TrainingBatch) -> Task:
    def start() -> Iterator[int]:
        while True:
            step(batch)
            yield batch.images

    return start


def after_pause(task: Task, seconds: float) -> Task:
    """Return a task that starts when the previous system is idle and its GPU memory is free."""

    def start() -> Iterator[int]:
        time.sleep(seconds)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # two sets of activations would not fit
        yield from task()

    return start
