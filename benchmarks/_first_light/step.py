"""Check 7: a training step of ResNet-50 with batch 256 on a synthetic batch."""

import itertools
import time
from collections.abc import Mapping
from typing import Any

import torch

from _first_light.report import Report
from _first_light.setup import Setup
from _first_light.workloads import photograph_workload, start
from fasticcl.bench.training import open_loop
from fasticcl.bench.workload import Workload
from fasticcl.data.batch import synthetic_batch
from fasticcl.data.plan import Phase

_PHASES: tuple[Phase, ...] = ("warmup", "interpolative")


def check(setup: Setup, report: Report) -> None:
    """Measure time and memory of the step in both phases, compiled on a GPU."""
    start(setup)
    encoder, batch_size, side, steps = ("resnet18", 2, 32, 2) if setup.small else ("resnet50", 256, 224, 20)
    mode = "off" if setup.gpu is None else "on"
    workload = photograph_workload(setup, encoder, batch_size, side, f"engine.compile={mode}")
    report.add("settings", workload.settings())
    for phase in _PHASES:
        with report.part(phase):
            report.add(phase, measure(workload, phase, steps))
    measured = [phase for phase in _PHASES if phase in report.figures]
    report.note = ", ".join(f"{phase} {report.figures[phase]['ms_per_step']} ms" for phase in measured)


def measure(workload: Workload, phase: Phase, steps: int) -> Mapping[str, Any]:
    """Return seconds of the first step, milliseconds per step, throughput and peak memory of a phase."""
    config, machine = workload.config, workload.machine
    size, side = config.optim.batch_size, config.data.image_size
    batch = synthetic_batch(phase, size, side, workload.num_classes, machine.device)
    if machine.gpu is not None:
        torch.cuda.reset_peak_memory_stats(machine.gpu)
    with open_loop(workload, phase) as loop:
        taken = loop.steps(itertools.repeat(batch))
        began = time.perf_counter()
        next(taken)
        machine.synchronize()
        first = time.perf_counter() - began
        for _ in range(min(4, steps)):
            next(taken)
        machine.synchronize()
        began = time.perf_counter()
        for _ in range(steps):
            next(taken)
        machine.synchronize()
        seconds = (time.perf_counter() - began) / steps
    memory = None if machine.gpu is None else torch.cuda.max_memory_allocated(machine.gpu) / 2**30
    return {
        "first_step_seconds": round(first, 1),
        "ms_per_step": round(1000 * seconds, 2),
        "forward_images_per_second": round(batch.images / seconds, 1),
        "peak_memory_gib": None if memory is None else round(memory, 2),
    }
