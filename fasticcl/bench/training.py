"""Throughput of training and of its components, and the time of each part of a step.

Throughput is measured on the unmodified engine. The parts are measured in a separate pass, in which the host
waits for the device before and after each part. They therefore add up to more than an unmodified step, in
which host and device work concurrently, as do loader and step.
"""

import itertools
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from fasticcl.bench.measure import Clock, Measurement, Stopwatch, Task
from fasticcl.bench.workload import Workload
from fasticcl.config import Config
from fasticcl.data.batch import TrainingBatch, synthetic_batch
from fasticcl.data.device_loader import DeviceLoader
from fasticcl.data.loader import Loader
from fasticcl.data.plan import Phase
from fasticcl.engine.captured_step import captured_step, captured_training
from fasticcl.engine.epoch_stats import EpochStats
from fasticcl.engine.evaluate import feature_extractor
from fasticcl.engine.loaders import evaluation_split_batches
from fasticcl.engine.loop import AnyBatch, Loop
from fasticcl.engine.progress import Display
from fasticcl.engine.run.folder import RunFolder
from fasticcl.engine.run.writer import RunWriter
from fasticcl.engine.stages.stage import Learn, TrainingStage, learn
from fasticcl.errors import TrainingFailed
from fasticcl.method.network import Network
from fasticcl.system.machine import Mode

PLAN_WARMUP = 20  # batches
STEP_WARMUP = 2  # steps, of which the first compiles
LOG_LINE = "log line"
PARTS = {
    "plan": "rows, crops, flips, colours and λ, in the training thread",
    "read": "mapping image bytes and comparing checksums, in the training thread",
    "wait": "waiting for decoded and augmented images",
    "forward": "forward pass of the network",
    "losses": "losses and centroids",
    "backward": "backward pass, and all time outside the other parts",
    "optimiser": "optimizer step and clearing of gradients",
    "metrics": "sums of the losses on the device",
    LOG_LINE: "reading and writing the sums, only every engine.log_every steps",
}
_MODES_OF_PARTS: dict[Mode, Mode] = {"step": "on", "captured": "off"}
_MIN_STEPS, _MAX_STEPS, _WARMUP_STEPS = 3, 50, 2


def loader_warmup(config: Config) -> int:
    """Return the number of warm-up batches of a loader, one more than a pipeline prefetches."""
    return config.engine.prefetch + 1


def plan_task(workload: Workload, phase: Phase) -> Task:
    """Return a task that plans batches without reading any image."""

    def start() -> Iterator[int]:
        loader = workload.loader()
        for iteration in itertools.count():
            planned = loader.plan.batch(phase, *divmod(iteration, loader.steps))
            yield sum(len(stream.rows) for stream in planned.streams)

    return start


def loader_task(workload: Workload, phase: Phase) -> Task:
    """Return a task that loads batches from a new pipeline, without a consumer."""

    def start() -> Iterator[int]:
        for batch in workload.loader().batches(phase):
            yield batch.images

    return start


def step_task(workload: Workload, phase: Phase) -> Task:
    """Return a task that takes training steps on one synthetic batch, which stays on the device."""
    config, device = workload.config, workload.machine.device
    size, side = config.optim.batch_size, config.data.image_size
    mixed = config.data.mixing != "none"
    batch = synthetic_batch(phase, size, side, workload.num_classes, device, mixed)

    def start() -> Iterator[int]:
        is_captured = workload.machine.mode == "captured"
        step = captured_step(type(batch), workload.machine, _fail) if is_captured else learn
        with open_loop(workload, phase, learn=step) as loop:
            for _ in loop.steps(itertools.repeat(batch)):
                yield batch.images

    return start


def bfloat16_step_task(workload: Workload, phase: Phase) -> Task:
    """Return a task like `step_task`, with forward passes in bfloat16."""
    return step_task(workload.in_bfloat16(), phase)


def _fail(message: str) -> None:
    raise TrainingFailed(message)


def training_task(workload: Workload, phase: Phase) -> Task:
    """Return a task that trains end to end: a new pipeline, training steps and log lines."""

    def start() -> Iterator[int]:
        loader, step, before = workload.loader(), learn, 0
        if workload.machine.mode == "captured":
            loader, step = captured_training(loader, workload.machine, _fail)
        with open_loop(workload, phase, loader, step) as loop:
            for _ in loop.steps(loader.batches(phase), log=True):
                yield loop.stats.images - before
                before = loop.stats.images

    return start


def evaluation_task(workload: Workload) -> Task:
    """Return a task that evaluates again and again: a new pipeline, and forward passes of the encoder."""

    def start() -> Iterator[int]:
        config, dataset, machine = workload.config, workload.dataset, workload.machine
        network = Network(config.method.encoder, workload.num_classes, settings=config.method)
        machine.to_device(network)
        encode = feature_extractor(network.eval().encoder, machine)
        if workload.generated:  # whose evaluated split has one image of each class
            dataset = replace(dataset, evaluated=dataset.train)
        batches = evaluation_split_batches(config, dataset, machine, repeat=True)
        with torch.no_grad():
            while True:
                for batch in batches:
                    encode(batch.x)
                    yield len(batch.y)

    return start


class BenchLoop:
    """The engine's training loop of one phase, without evaluation and checkpoints."""

    def __init__(
        self, workload: Workload, phase: Phase, loader: Loader | DeviceLoader, learn: Learn, project: Path
    ) -> None:
        config = workload.config
        engine = config.engine.model_copy(update={"project": project})
        self.stage: TrainingStage = workload.stage(phase)
        self.ranks, self.log_every = workload.machine.ranks, engine.log_every
        self.stats = EpochStats(self.ranks, workload.machine.device)
        folder = RunFolder.create(config.model_copy(update={"engine": engine}))
        self.loop = Loop(
            loader,
            lambda _: {},  # no evaluation
            RunWriter(folder, ranks=self.ranks),
            Display(Console(quiet=True), {"interpolative": loader.steps}),
            learn,
        )

    def steps(self, batches: Iterator[AnyBatch], log: bool = False) -> Iterator[int]:
        """Take training steps indefinitely and yield their count. If ``log`` is True, write log lines."""
        while True:
            self.loop.take_step(self.stage, batches, self.stats)
            if log and self.stats.steps % self.log_every == 0:
                self.log()
            yield self.stats.steps

    def log(self) -> None:
        """Write a log line."""
        self.loop.log(self.stage, 0, self.stats.steps, self.stats)


@contextmanager
def open_loop(
    workload: Workload, phase: Phase, loader: Loader | DeviceLoader | None = None, learn: Learn = learn
) -> Iterator[BenchLoop]:
    """Yield a loop with a temporary run folder."""
    with tempfile.TemporaryDirectory(prefix="fasticcl-bench-") as project:
        yield BenchLoop(workload, phase, loader or workload.loader(), learn, Path(project))


def parts_mode(mode: Mode) -> Mode:
    """Return the mode in which the parts of a step are measured: ``mode`` itself if it has parts.

    A step that is compiled or captured as a whole has no parts. The stopwatch would divide its graph, so a
    different program would be measured. The parts are then those of the mode with the same kernels or, for
    ``step``, with the same compiled network.
    """
    return _MODES_OF_PARTS.get(mode, mode)


def measure_parts(
    workload: Workload, phase: Phase, seconds: float, clock: Clock = time.perf_counter
) -> dict[str, Measurement]:
    """Return the milliseconds per step of each of `PARTS`, from 3 to 50 steps in about ``seconds``.

    They are measured in the mode that `parts_mode` returns.
    """
    mode = parts_mode(workload.machine.mode)
    if mode != workload.machine.mode:
        workload = replace(workload, machine=replace(workload.machine, mode=mode))
    loader = workload.loader()
    stopwatch = Stopwatch("backward", workload.machine.synchronize, clock)
    milliseconds: dict[str, list[float]] = defaultdict(list)
    with open_loop(workload, phase, loader) as loop, ExitStack() as instrumented:
        for owner, function, part in _instrumented(loader, loop):
            instrumented.enter_context(stopwatch.instrument(owner, function, part))
        start = clock()
        for step in loop.steps(_timed(loader.batches(phase), stopwatch)):
            with stopwatch.part(LOG_LINE):
                loop.log()
            lap = stopwatch.lap()
            if step <= _WARMUP_STEPS:
                start = clock()
                continue
            for part in PARTS:
                milliseconds[part].append(1000 * lap.get(part, 0.0))
            measured = step - _WARMUP_STEPS
            if measured >= _MAX_STEPS or (measured >= _MIN_STEPS and clock() - start >= seconds):
                break
    return {part: Measurement(tuple(runs), "ms/step") for part, runs in milliseconds.items()}


def _instrumented(loader: Loader, loop: BenchLoop) -> list[tuple[object, str, str]]:
    """Return the object, the method name and the part of each call to be timed."""
    stage = loop.stage
    names = ("forward", "features", "student")  # each stage has some of these
    forward = [(stage, name, "forward") for name in names if hasattr(stage, name)]
    return [
        (loader.plan, "batch", "plan"),
        (loader.shards, "graph_input", "read"),
        *forward,
        (stage, "losses", "losses"),
        (stage.optimizer, "zero_grad", "optimiser"),
        (stage.optimizer, "step", "optimiser"),
        (loop.stats, "add", "metrics"),
    ]


def _timed(batches: Iterator[TrainingBatch], stopwatch: Stopwatch) -> Iterator[TrainingBatch]:
    while True:
        with stopwatch.part("wait"):
            batch = next(batches)
        yield batch
