"""What benchmarks that measure several systems in turns share."""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path | None) -> Iterator[None]:
    """Hold a file's lock, which keeps others who ask for it from measuring meanwhile; None: do not."""
    if path is None:
        yield
        return
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def in_order(systems: Sequence[str], repeat: int) -> Sequence[str]:
    """Return the order of a round, which turns round each time: drift hits all alike."""
    return systems[:: 1 if repeat % 2 == 0 else -1]


def busy_cores(seconds: float) -> float:
    """Return how many of the machine's cores are in use, on average over so many seconds."""
    began, before = time.perf_counter(), _used_seconds()
    time.sleep(seconds)
    return (_used_seconds() - before) / (time.perf_counter() - began)


def _used_seconds() -> float:
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _, _, irq, softirq, *_ = (int(field) for field in file.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def over(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return the ratios of two systems, run by run."""
    return [one / other for one, other in zip(ours, others, strict=True)]
