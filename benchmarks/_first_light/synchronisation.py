"""Check 5: no step of the training loop waits for the GPU, in any mode and phase.

Log lines and evaluations may wait. A step outside them that waits leaves the GPU idle.
"""

import gc
import math
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from _first_light.report import Report, innermost, place
from _first_light.setup import Setup
from _first_light.workloads import open_training, square_workload, start
from fasticcl.bench.training import BenchLoop
from fasticcl.data.plan import Phase
from fasticcl.engine.loop import AnyBatch
from fasticcl.system.machine import MODES

_PHASES: tuple[Phase, ...] = ("warmup", "interpolative", "rebalance")  # those of ICCL

Batches = Iterator[AnyBatch]
SetMode = Callable[[str], None]
"""Sets torch's synchronisation debug mode to default, warn or error."""

_MESSAGE = "called a synchronizing CUDA operation"  # of torch's warnings and errors
_ON_CPU = ("off", "captured")  # the modes that compile nothing
_SETTLE = 6  # steps that compile, record CUDA graphs and fill the caches of the allocators
_TOLERANCE = 0.05  # relative difference of the mean losses of two modes, which round bfloat16 differently
_LISTED = 3  # steps that list the other synchronisations after the first was found


def check(setup: Setup, report: Report) -> None:
    """Take steps of the real loop with a real loader in every mode, first the modes that compile nothing."""
    start(setup)
    set_mode: SetMode = (lambda _: None) if setup.gpu is None else torch.cuda.set_sync_debug_mode
    steps = 3 if setup.small else 20
    eager: dict[str, float] = {}
    for mode in MODES:
        if mode not in _ON_CPU and setup.gpu is None:
            report.skip(mode, "compiling takes minutes on a CPU")
            continue
        workload = square_workload(setup, "resnet8", 8 if setup.small else 64, f"engine.compile={mode}")
        torch.manual_seed(0)  # the same weights in all modes
        for phase in _PHASES:
            name = f"{mode} {phase}"
            with report.part(name), open_training(workload, phase) as (loop, batches):
                places = watched_steps(loop, batches, steps, set_mode)
                loss = loop.stats.record()["train/loss"]
                report.add(name, {"steps": steps, "loss": loss, "waits": places})
                expected = eager.setdefault(phase, loss)
                same = math.isclose(loss, expected, rel_tol=_TOLERANCE)
                report.expect(same, f"{name}: the mean loss is {loss:.4f}, in the first mode {expected:.4f}")
                waits = "; ".join(places)
                report.expect(not places, f"{name}: a step waits for the GPU in {waits}")
        torch.compiler.reset()
        gc.collect()  # compiled modules contain reference cycles
    waits = sum(sum(figures["waits"].values()) for figures in report.figures.values())
    report.note = f"{waits} waits in {len(report.figures)} combinations of mode and phase"


def watched_steps(loop: BenchLoop, batches: Batches, steps: int, set_mode: SetMode) -> dict[str, int]:
    """Take steps that must not wait for the GPU, and return the places where they do, with their counts.

    Half-way, a log line is written, which may wait. After a step that waits, a few more list all places.
    """
    watch = SyncWatch(set_mode)
    watched = watch.loading(batches)
    for _ in range(_SETTLE if steps > _SETTLE else 1):
        loop.loop.take_step(loop.stage, watched, loop.stats)
    for step in range(steps):
        if step == steps // 2:
            loop.log()
        with watch.errors():
            loop.loop.take_step(loop.stage, watched, loop.stats)
        if watch.places:
            break
    for _ in range(_LISTED if watch.places else 0):
        with watch.warnings():
            loop.loop.take_step(loop.stage, watched, loop.stats)
    return dict(watch.places)


class SyncWatch:
    """Finds the lines that wait for the GPU.

    Args:
        set_mode: sets the debug mode.
    """

    def __init__(self, set_mode: SetMode) -> None:
        self._set_mode, self._mode = set_mode, "default"
        self.places: Counter[str] = Counter()
        """Lines of this repository that waited."""

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Stop at the first operation that waits, and record its place."""
        try:
            with self._debug_mode("error"):
                yield
        except RuntimeError as error:
            if _MESSAGE not in str(error):
                raise
            self.places[place(error)] += 1

    @contextmanager
    def warnings(self) -> Iterator[None]:
        """Record the places of all operations that wait."""
        with warnings.catch_warnings(), self._debug_mode("warn"):
            warnings.simplefilter("always")
            forward = warnings.showwarning

            def show(message: Any, *arguments: Any, **options: Any) -> None:
                if _MESSAGE in str(message):
                    self.places[innermost(traceback.extract_stack())] += 1
                else:
                    forward(message, *arguments, **options)

            warnings.showwarning = show
            yield

    def loading(self, batches: Batches) -> Batches:
        """Yield batches. An operation of the loader that waits in a watched step is recorded.

        It causes no error, which the loader would treat as an unreadable image.
        """
        while True:
            with nullcontext() if self._mode == "default" else self.warnings():
                batch = next(batches)
            yield batch

    @contextmanager
    def _debug_mode(self, mode: str) -> Iterator[None]:
        before, self._mode = self._mode, mode
        self._set_mode(mode)
        try:
            yield
        finally:
            self._mode = before
            self._set_mode(before)
