"""CPU cores and memory available to this process, as limited by its affinity and control groups.

A container or a batch job is limited by control groups. A process is bound by its own group and by all
ancestors, so the smallest limit applies. Both cgroup versions are supported. Version 1 has a separate
hierarchy for each controller.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from fasticcl.system.rank_environment import local_world_size

_ROOT = Path("/")
_BUSY_THREADS = 3  # with a GPU, in addition to those that decode
_NO_MEMORY_LIMIT = 2**60  # version 1 reports a number near 2^63 if there is no limit


def available_cores() -> int:
    """Return the number of cores for this rank: the usable cores divided by the ranks on this machine."""
    return max(1, usable_cores() // local_world_size())


def decoding_threads(gpu: bool, cores: int | None = None) -> int:
    """Return the default number of threads that decode and augment images.

    On a CPU this is one thread per core. With a GPU, up to three cores stay free, because three other threads
    are always busy: the training thread, the thread of autograd, and a thread of DALI that releases outputs
    and waits for the GPU, which by default is a busy wait.

    Args:
        gpu: True if images are augmented on a GPU.
        cores: number of cores, or None for `available_cores`.
    """
    cores = cores or available_cores()
    return max(cores - _BUSY_THREADS, math.ceil(cores / 2)) if gpu else cores


def usable_cores() -> int:
    """Return the number of cores that CPU affinity and control groups allow this process to use."""
    cores, quota = len(os.sched_getaffinity(0)), cpu_quota()
    return cores if quota is None else min(cores, max(1, math.ceil(quota)))


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Return the CPU quota in cores, or None if there is no limit."""
    quotas = []
    for group in _groups("cpu", root):
        try:
            if (group / "cpu.max").exists():
                micros, period = (group / "cpu.max").read_text().split()
            else:
                micros, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            quotas.append(float(micros) / float(period))
        except (OSError, ValueError):  # no such file, or the value "max"
            continue
    return min((quota for quota in quotas if quota > 0), default=None)


def memory_limit(root: Path = _ROOT) -> int | None:
    """Return the memory limit in bytes, or None if there is no limit."""
    limits = []
    for group in _groups("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                limits.append(int((group / name).read_text()))
            except (OSError, ValueError):
                continue
    return min((limit for limit in limits if limit < _NO_MEMORY_LIMIT), default=None)


def memory_left(root: Path = _ROOT) -> int | None:
    """Return the unused bytes below the memory limit, or None if there is no limit."""
    left = []
    for group in _groups("memory", root):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            try:
                maximum = int((group / limit).read_text())
                left.append((maximum, maximum - int((group / used).read_text())))
            except (OSError, ValueError):
                continue
    return min((unused for maximum, unused in left if maximum < _NO_MEMORY_LIMIT), default=None)


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of the control groups of this process, from the innermost to the root."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        group = top / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))
