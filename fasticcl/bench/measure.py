"""Measuring: what works in batches, again and again, warm-up left out."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from typing import Any

Work = Callable[[], Iterator[int]]
"""Starts anew and yields, after each batch, how many images that was; closing the iterator ends it."""
Clock = Callable[[], float]
Settle = Callable[[], None]
"""Returns when everything that was started on the device is done."""


def at_once() -> None:
    """Settle on a CPU, where nothing is ever under way."""


@dataclass(frozen=True)
class Measurement:
    """A quantity as several runs gave it, in their order."""

    runs: tuple[float, ...]
    unit: str

    @property
    def median(self) -> float:
        """The middle of the runs."""
        return statistics.median(self.runs)

    @property
    def min(self) -> float:
        """The least of the runs."""
        return min(self.runs)

    @property
    def max(self) -> float:
        """The greatest of the runs."""
        return max(self.runs)

    def to_dict(self) -> dict[str, Any]:
        """Return unit, median, spread and the runs themselves, for JSON."""
        runs = tuple(float(f"{run:.6g}") for run in self.runs)
        rounded = Measurement(runs, self.unit)
        spread = {"median": rounded.median, "min": rounded.min, "max": rounded.max}
        return {"unit": self.unit, **spread, "runs": [*runs]}


def shown(value: float) -> str:
    """Return a figure as tables and sentences have it."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def rate(
    work: Work,
    *,
    seconds: float,
    warmup: int,
    settle: Settle = at_once,
    clock: Clock = time.perf_counter,
) -> float:
    """Return images per second of one run.

    Args:
        work: what is measured; it is started anew.
        seconds: the run ends with the first batch after so many.
        warmup: batches before the clock starts. For what has a queue they must be more than it holds, or
            batches made earlier would be counted.
        settle: awaited before the clock starts and before it is read for the last time, not in between.
        clock: seconds.
    """
    batches = work()
    for _ in islice(batches, warmup):
        pass
    settle()
    began, images = clock(), 0
    for done in batches:
        images += done
        if clock() - began >= seconds:
            break
    settle()
    return images / (clock() - began)


def in_turns(
    works: Mapping[str, Work],
    *,
    repeats: int,
    seconds: float,
    warmup: Mapping[str, int],
    settle: Settle = at_once,
    clock: Clock = time.perf_counter,
) -> dict[str, Measurement]:
    """Return the rate of each work over ``repeats`` runs, as `rate` measures one.

    The works take turns, in an order that turns round each time, so that drift hits all alike.
    """
    runs: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats):
        for name in list(works)[:: -1 if repeat % 2 else 1]:
            taken = rate(works[name], seconds=seconds, warmup=warmup[name], settle=settle, clock=clock)
            runs[name].append(taken)
    return {name: Measurement(tuple(each), "images/s") for name, each in runs.items()}


class Stopwatch:
    """Charges every moment to the innermost part that is running, after waiting for the device.

    Args:
        rest: name of what belongs to no part.
        settle, clock: as for `rate`.
    """

    def __init__(self, rest: str, settle: Settle = at_once, clock: Clock = time.perf_counter) -> None:
        self.settle, self.clock = settle, clock
        self._running = [rest]
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._mark = clock()

    def lap(self) -> dict[str, float]:
        """Return the seconds of each part since the last call."""
        self._charge()
        finished = dict(self._seconds)
        self._seconds.clear()
        return finished

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge what runs inside to a part."""
        self._charge()
        self._running.append(name)
        try:
            yield
        finally:
            self._charge()
            self._running.pop()

    @contextmanager
    def watching(self, owner: object, function: str, name: str) -> Iterator[None]:
        """Charge the calls of one object's function to a part; others of its class are left alone."""
        original = getattr(owner, function)
        own = function in vars(owner)

        @wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return original(*args, **kwargs)

        setattr(owner, function, timed)
        try:
            yield
        finally:
            if own:
                setattr(owner, function, original)
            else:
                delattr(owner, function)

    def _charge(self) -> None:
        self.settle()
        now = self.clock()
        self._seconds[self._running[-1]] += now - self._mark
        self._mark = now
