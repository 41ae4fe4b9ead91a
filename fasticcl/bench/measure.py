"""Repeated, interleaved throughput measurements that exclude warm-up, and a stopwatch for parts of a step."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from types import MappingProxyType
from typing import Any

from fasticcl.bench.sizes import Sizes

Task = Callable[[], Iterator[int]]
"""Starts a task and yields the number of images in each batch. Closing the iterator ends the task."""
Clock = Callable[[], float]
Synchronize = Callable[[], None]
"""Blocks until all work queued on the device is done."""


def no_queue() -> None:
    """Do nothing, because a CPU has no queue to wait for."""


@dataclass(frozen=True)
class Measurement:
    """Results of repeated runs, in the order of the runs."""

    runs: tuple[float, ...]
    unit: str
    sizes: Sizes | None = None
    """Sizes of the measured batches, or None if they are given elsewhere."""

    @property
    def median(self) -> float:
        """Median of the runs."""
        return statistics.median(self.runs)

    @property
    def min(self) -> float:
        """Smallest run."""
        return min(self.runs)

    @property
    def max(self) -> float:
        """Largest run."""
        return max(self.runs)

    def to_dict(self) -> dict[str, Any]:
        """Return unit, median, minimum, maximum and all runs, rounded to six digits, and the sizes."""
        runs = tuple(float(f"{run:.6g}") for run in self.runs)
        rounded = Measurement(runs, self.unit)
        spread = {"median": rounded.median, "min": rounded.min, "max": rounded.max}
        sizes = {} if self.sizes is None else {"sizes": self.sizes.to_dict()}
        return {"unit": self.unit, **spread, "runs": [*runs], **sizes}


def format_figure(value: float) -> str:
    """Format a figure: as a whole number from 100 on, with three significant digits below."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def throughput(
    task: Task,
    *,
    seconds: float,
    warmup: int,
    min_batches: int = 1,
    synchronize: Synchronize = no_queue,
    clock: Clock = time.perf_counter,
) -> float:
    """Return the images per second of one run.

    Args:
        task: the task to time.
        seconds: the run ends with the first batch after this time, if it has ``min_batches``.
        warmup: batches before the clock starts. A task with a prefetch queue needs more than the queue
            holds, because batches prepared earlier must not count.
        min_batches: smallest number of batches in the run.
        synchronize: called before the clock starts and before it is read for the last time, not in between.
        clock: returns the time in seconds.
    """
    batches = task()
    for _ in islice(batches, warmup):
        pass
    synchronize()
    start, images = clock(), 0
    for number, count in enumerate(batches, 1):
        images += count
        if number >= min_batches and clock() - start >= seconds:
            break
    synchronize()
    return images / (clock() - start)


def interleaved_throughput(
    tasks: Mapping[str, Task],
    *,
    repeats: int,
    seconds: float,
    warmup: Mapping[str, int],
    min_batches: Mapping[str, int] = MappingProxyType({}),
    synchronize: Synchronize = no_queue,
    clock: Clock = time.perf_counter,
) -> dict[str, Measurement]:
    """Return the `throughput` of each task over ``repeats`` runs.

    The runs of the tasks are interleaved, in an order that is reversed each time, so drift of the machine
    affects all tasks equally.
    """
    runs: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(repeats):
        for name in list(tasks)[:: -1 if repeat % 2 else 1]:
            rate = throughput(
                tasks[name],
                seconds=seconds,
                warmup=warmup[name],
                min_batches=min_batches.get(name, 1),
                synchronize=synchronize,
                clock=clock,
            )
            runs[name].append(rate)
    return {name: Measurement(tuple(rates), "images/s") for name, rates in runs.items()}


@dataclass(frozen=True)
class Timing:
    """Number and length of the runs of each task."""

    repeats: int
    seconds: float
    show_status: Callable[[str], None]
    """Called with a description of what is being measured."""

    def __call__(
        self,
        tasks: Mapping[str, Task],
        warmup: Mapping[str, int],
        synchronize: Synchronize = no_queue,
        min_batches: Mapping[str, int] = MappingProxyType({}),
    ) -> dict[str, Measurement]:
        """Measure tasks in interleaved runs."""
        times = "once" if self.repeats == 1 else f"{self.repeats} times"
        self.show_status(f"measuring {', '.join(tasks)}: {times} {self.seconds:g} s each")
        return interleaved_throughput(
            tasks,
            repeats=self.repeats,
            seconds=self.seconds,
            warmup=warmup,
            min_batches=min_batches,
            synchronize=synchronize,
        )


class Stopwatch:
    """Adds elapsed time to the innermost running part, after waiting for the device.

    Args:
        rest: name of the part that receives the time outside all other parts.
        synchronize, clock: as in `throughput`.
    """

    def __init__(
        self, rest: str, synchronize: Synchronize = no_queue, clock: Clock = time.perf_counter
    ) -> None:
        self.synchronize, self.clock = synchronize, clock
        self._running = [rest]
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._last = clock()

    def lap(self) -> dict[str, float]:
        """Return the seconds of each part since the last call."""
        self._add_elapsed()
        lap = dict(self._seconds)
        self._seconds.clear()
        return lap

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the enclosed block to a part."""
        self._add_elapsed()
        self._running.append(name)
        try:
            yield
        finally:
            self._add_elapsed()
            self._running.pop()

    @contextmanager
    def instrument(self, owner: object, function: str, name: str) -> Iterator[None]:
        """Add the time of calls of one object's method to a part. Other instances are not affected."""
        original = getattr(owner, function)
        is_instance_attribute = function in vars(owner)

        @wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return original(*args, **kwargs)

        setattr(owner, function, timed)
        try:
            yield
        finally:
            if is_instance_attribute:
                setattr(owner, function, original)
            else:
                delattr(owner, function)

    def _add_elapsed(self) -> None:
        self.synchronize()
        now = self.clock()
        self._seconds[self._running[-1]] += now - self._last
        self._last = now
