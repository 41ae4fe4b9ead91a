"""How many images per second the step takes when they are on the device already."""

import itertools
from collections.abc import Iterator

import torch

from fasticcl.bench.measure import Work
from fasticcl.bench.train import open_loop
from fasticcl.bench.workload import Workload
from fasticcl.data.loader import Batch, StreamBatch
from fasticcl.data.plan import Phase

WARMUP = 2  # steps; what is compiled is compiled in the first


def step_work(workload: Workload, phase: Phase) -> Work:
    """Return the work of the engine's own step, on one synthetic batch again and again."""
    batch = synthetic_batch(workload, phase)

    def start() -> Iterator[int]:
        with open_loop(workload, phase) as loop:
            for _ in loop.steps(itertools.repeat(batch)):
                yield batch.images

    return start


def synthetic_batch(workload: Workload, phase: Phase) -> Batch | StreamBatch:
    """Return random images and classes as the loader would give them, on the device."""
    generator = torch.Generator().manual_seed(0)
    size, side = workload.config.optim.batch_size, workload.config.data.image_size

    def images() -> torch.Tensor:
        drawn = torch.randn(size, 3, side, side, generator=generator)
        return drawn.to(workload.machine.device, memory_format=torch.channels_last)

    def labels() -> torch.Tensor:
        return torch.randint(workload.num_classes, (size,), generator=generator).to(workload.machine.device)

    if phase != "interpolative":
        return StreamBatch(images(), labels())
    lam = torch.rand(1, generator=generator).expand(size).to(workload.machine.device)
    return Batch(images(), labels(), images(), labels(), lam.contiguous())
