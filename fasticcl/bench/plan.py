"""How many images per second the plan draws: rows, windows, flips, colours and λ, without reading any."""

import itertools
from collections.abc import Iterator

from fasticcl.bench.measure import Work
from fasticcl.bench.workload import Workload
from fasticcl.data.plan import Phase

WARMUP = 20  # batches


def plan_work(workload: Workload, phase: Phase) -> Work:
    """Return the work of drawing batch after batch, epoch after epoch."""

    def start() -> Iterator[int]:
        loader = workload.loader()
        for iteration in itertools.count():
            planned = loader.plan.batch(phase, *divmod(iteration, loader.steps))
            yield sum(len(stream.rows) for stream in planned.streams)

    return start
