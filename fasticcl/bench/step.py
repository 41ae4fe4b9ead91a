"""How many images per second the step takes when they are on the device already."""

import itertools
from collections.abc import Iterator

from fasticcl.bench.measure import Work
from fasticcl.bench.train import open_loop
from fasticcl.bench.workload import Workload
from fasticcl.data.batch import synthetic_batch
from fasticcl.data.plan import Phase

WARMUP = 2  # steps; what is compiled is compiled in the first


def step_work(workload: Workload, phase: Phase) -> Work:
    """Return the work of the engine's own step, on one synthetic batch again and again."""
    config, device = workload.config, workload.machine.device
    size, side = config.optim.batch_size, config.data.image_size
    batch = synthetic_batch(phase, size, side, workload.num_classes, device)

    def start() -> Iterator[int]:
        with open_loop(workload, phase) as loop:
            for _ in loop.steps(itertools.repeat(batch)):
                yield batch.images

    return start
