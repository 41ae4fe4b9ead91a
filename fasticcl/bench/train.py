"""Training end to end on real shards: the engine's own loop, and where the time of a step goes.

The whole is measured first, with nothing added to it. The parts come in a pass of their own, in which the
host waits for the device before and after each: so they add up to more than a step of the whole, where host
and device, and loader and step, work at the same time.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from fasticcl.bench.measure import Clock, Measurement, Stopwatch, Work
from fasticcl.bench.workload import Workload
from fasticcl.data.loader import Batch, Loader, StreamBatch
from fasticcl.data.plan import Phase
from fasticcl.engine.loop import Loop, Meter
from fasticcl.engine.progress import Display
from fasticcl.engine.run.folder import Run
from fasticcl.engine.run.save_clock import SaveClock
from fasticcl.engine.stages.stage import Stage
from fasticcl.system.signals import StopRequest

LOG_LINE = "log line"
PARTS = {
    "plan": "rows, windows, flips, colours, λ; in the training thread",
    "read": "mapping the images' bytes and comparing their checksums; in the training thread",
    "wait": "for decoded and augmented images",
    "forward": "network",
    "losses": "losses, centroids",
    "backward": "and what is left of a step",
    "optimiser": "step and clearing of gradients",
    "metrics": "summing up losses on the device",
    LOG_LINE: "reading the sums and writing them; comes only every engine.log_every steps",
}
_LEAST, _MOST, _WARMUP = 3, 50, 2  # steps of the pass for the parts


class BenchLoop:
    """The engine's loop over a stage, without evaluation and checkpoints."""

    def __init__(self, workload: Workload, phase: Phase, loader: Loader, project: Path) -> None:
        config = workload.config
        engine = config.engine.model_copy(update={"project": project})
        self.stage: Stage = workload.stage(phase)
        self.ranks, self.log_every = workload.machine.ranks, engine.log_every
        self.meter = Meter(self.ranks, workload.machine.device)
        self.loop = Loop(
            loader,
            lambda _: {},  # nothing is evaluated
            Run.create(config.model_copy(update={"engine": engine})),
            Display(Console(quiet=True), {"interpolative": loader.steps}),
            StopRequest(),
            SaveClock(engine.save_every),
            self.ranks,
            self.log_every,
        )

    def steps(self, batches: Iterator[Batch | StreamBatch], log: bool = False) -> Iterator[int]:
        """Take step after step, and yield how many were taken; ``log`` also writes the log lines."""
        while True:
            self.loop.take_step(self.stage, batches, self.meter)
            if log and self.meter.steps % self.log_every == 0:
                self.log()
            yield self.meter.steps

    def log(self) -> None:
        """Write a log line."""
        self.loop.log(self.stage, 0, self.meter.steps, self.meter)


@contextmanager
def open_loop(workload: Workload, phase: Phase, loader: Loader | None = None) -> Iterator[BenchLoop]:
    """Yield a loop whose run folder is temporary."""
    with tempfile.TemporaryDirectory(prefix="fasticcl-bench-") as project:
        yield BenchLoop(workload, phase, loader or workload.loader(), Path(project))


def train_work(workload: Workload, phase: Phase) -> Work:
    """Return the work of training: new pipeline, steps, log lines."""

    def start() -> Iterator[int]:
        loader, before = workload.loader(), 0
        with open_loop(workload, phase, loader) as loop:
            for _ in loop.steps(loader.batches(phase), log=True):
                yield loop.meter.images - before
                before = loop.meter.images

    return start


def measure_parts(
    workload: Workload, phase: Phase, seconds: float, clock: Clock = time.perf_counter
) -> dict[str, Measurement]:
    """Return milliseconds a step of each of `PARTS`, over the steps that ``seconds`` allow, 3 to 50."""
    loader = workload.loader()
    watch = Stopwatch("backward", workload.machine.synchronize, clock)
    taken: dict[str, list[float]] = defaultdict(list)
    with open_loop(workload, phase, loader) as loop, ExitStack() as watched:
        for owner, function, part in _watched(loader, loop):
            if hasattr(owner, function):
                watched.enter_context(watch.watching(owner, function, part))
        began = clock()
        for step in loop.steps(_waited(loader.batches(phase), watch)):
            with watch.part(LOG_LINE):
                loop.log()
            lap = watch.lap()
            if step <= _WARMUP:
                began = clock()
                continue
            for part in PARTS:
                taken[part].append(1000 * lap.get(part, 0.0))
            if step - _WARMUP >= _MOST or (step - _WARMUP >= _LEAST and clock() - began >= seconds):
                break
    return {part: Measurement(tuple(each), "ms/step") for part, each in taken.items()}


def _watched(loader: Loader, loop: BenchLoop) -> list[tuple[object, str, str]]:
    stage = loop.stage
    forward = [(stage, name, "forward") for name in ("forward", "features", "student")]
    return [
        (loader.plan, "batch", "plan"),
        (loader.shards, "images", "read"),
        *forward,
        (stage, "losses", "losses"),
        (stage.optimizer, "zero_grad", "optimiser"),
        (stage.optimizer, "step", "optimiser"),
        (loop.meter, "add", "metrics"),
    ]


def _waited(batches: Iterator[Batch | StreamBatch], watch: Stopwatch) -> Iterator[Batch | StreamBatch]:
    while True:
        with watch.part("wait"):
            batch = next(batches)
        yield batch
