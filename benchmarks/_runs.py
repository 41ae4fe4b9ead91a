"""Interleaved runs on a shared machine, their statistics, and the result file."""

import fcntl
import json
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fasticcl.system.hardware import hardware

__all__ = [
    "alternating",
    "busy_cores",
    "format_spread",
    "hardware",
    "locked",
    "ratios",
    "summarize",
    "write_result",
]


@contextmanager
def locked(path: Path | None) -> Iterator[None]:
    """Lock a file, so that other benchmarks that use it wait. None: no lock."""
    if path is None:
        yield
        return
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def alternating(systems: Sequence[str], repeat: int) -> Sequence[str]:
    """Return the order of the systems in a round. It alternates, so drift affects all systems equally."""
    return systems[:: 1 if repeat % 2 == 0 else -1]


def busy_cores(seconds: float) -> float:
    """Return the average number of cores in use on the machine over the next ``seconds``."""
    start, before = time.perf_counter(), _used_seconds()
    time.sleep(seconds)
    return (_used_seconds() - before) / (time.perf_counter() - start)


def _used_seconds() -> float:
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _, _, irq, softirq, *_ = (int(field) for field in file.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def ratios(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return the ratios of two systems, run by run."""
    return [one / other for one, other in zip(ours, others, strict=True)]


def summarize(values: Sequence[float]) -> dict[str, Any]:
    """Return the runs, their median, minimum and maximum for the result file."""
    return {
        "runs": [round(value, 3) for value in values],
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def format_spread(summary: Mapping[str, Any], digits: int) -> str:
    """Return ``median (min to max)`` of a summary."""
    median, low, high = (f"{summary[key]:.{digits}f}" for key in ("median", "min", "max"))
    return f"{median} ({low} to {high})"


def write_result(result: Mapping[str, Any], file: Path | None) -> None:
    """Write a result as JSON. None: no file."""
    if file:
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
