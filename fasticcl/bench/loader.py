"""How many images per second the loader gives while nobody does anything with them."""

from collections.abc import Iterator

from fasticcl.bench.measure import Work
from fasticcl.bench.workload import Workload
from fasticcl.config import Config
from fasticcl.data.plan import Phase


def warmup(config: Config) -> int:
    """Return more batches than a pipeline has ready, so that none made before the clock ran is counted."""
    return config.engine.prefetch + 1


def loader_work(workload: Workload, phase: Phase) -> Work:
    """Return the work of a new pipeline."""

    def start() -> Iterator[int]:
        for batch in workload.loader().batches(phase):
            yield batch.images

    return start
