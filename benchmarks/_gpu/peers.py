"""Loader and step compared with implementations in plain torch and torchvision."""

import time
from collections.abc import Iterator

from _gpu.bench import NO_JITTER, Bench, Figures
from _gpu.torch_baseline import AHEAD, EagerStep, two_samplers
from fasticcl.bench.measure import Task, interleaved_throughput
from fasticcl.bench.synthetic_images import write_files
from fasticcl.bench.training import loader_task, loader_warmup, step_task
from fasticcl.data.batch import Batch, synthetic_batch


def peers(bench: Bench) -> Figures:
    """Measure fasticcl and the peers in interleaved runs: loaders, then steps."""
    sizes, device = bench.sizes, bench.torch_device
    write_files(bench.images, bench.folder / "files")
    common = (bench.folder / "files/train", sizes.batch_size, sizes.workers, sizes.side, device)
    sources = {
        "pillow": two_samplers(*common, encoded=False),
        "decode_jpeg": two_samplers(*common, encoded=True),
    }
    workload = bench.workload("imagenet-lt", sizes.eager, sizes.batch_size, NO_JITTER)
    loaders: dict[str, Task] = {"ours": loader_task(workload, "interpolative")}
    loaders |= {name: forever(source) for name, source in sources.items()}
    queue = {"ours": loader_warmup(workload.config)} | dict.fromkeys(sources, AHEAD * sizes.workers + 2)
    batch = synthetic_batch("interpolative", sizes.batch_size, sizes.side, workload.num_classes, device)
    assert isinstance(batch, Batch)
    eager = EagerStep(sizes.eager, workload.num_classes, device)
    steps: dict[str, Task] = {"ours": step_task(workload, "interpolative"), "eager": repeated(eager, batch)}
    figures: Figures = {}
    for title, tasks, before in (("loader", loaders, queue), ("step", steps, dict.fromkeys(steps, 2))):
        rates = interleaved_throughput(
            {name: after_pause(task, sizes.pause) for name, task in tasks.items()},
            repeats=sizes.repeats,
            seconds=sizes.seconds,
            warmup=before,
            synchronize=workload.machine.synchronize,
        )
        figures[title] = {name: each.to_dict() for name, each in rates.items()}
        for name in [name for name in rates if name != "ours"]:
            pairs = zip(rates["ours"].runs, rates[name].runs, strict=True)
            figures[title][f"ours / {name}"] = [ours / other for ours, other in pairs]
    return figures


def forever(source: Iterator[Batch]) -> Task:
    """Return the task of continuing an iterator, so its workers are started only once."""

    def start() -> Iterator[int]:
        for batch in source:
            yield batch.images

    return start


def repeated(step: EagerStep, batch: Batch) -> Task:
    def start() -> Iterator[int]:
        while True:
            step(batch)
            yield batch.images

    return start


def after_pause(task: Task, seconds: float) -> Task:
    def start() -> Iterator[int]:
        time.sleep(seconds)
        yield from task()

    return start
