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
_NO_MEMORY_LIMIT = 2**60  # version 1 writes a number near 2^63 for none


def available_cores() -> int:
    """Return this process's share of the cores: those it may use, divided among the ranks of its machine."""
    return max(1, usable_cores() // local_world_size())


def usable_cores() -> int:
    """Return how many cores may be kept busy here, by affinity and by control group."""
    cores, quota = len(os.sched_getaffinity(0)), cpu_quota()
    return cores if quota is None else min(cores, max(1, math.ceil(quota)))


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Return the cores' worth of time that this process is granted, or None where that is not limited."""
    shares = []
    for group in _groups("cpu", root):
        try:
            if (group / "cpu.max").exists():
                quota, period = (group / "cpu.max").read_text().split()
            else:
                quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            shares.append(float(quota) / float(period))
        except (OSError, ValueError):  # no such file here, or "max"
            continue
    return min((share for share in shares if share > 0), default=None)


def memory_limit(root: Path = _ROOT) -> int | None:
    """Return the bytes of memory that this process may use, or None where they are not limited."""
    limits = []
    for group in _groups("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                limits.append(int((group / name).read_text()))
            except (OSError, ValueError):
                continue
    return min((limit for limit in limits if limit < _NO_MEMORY_LIMIT), default=None)


def memory_left(root: Path = _ROOT) -> int | None:
    """Return the bytes of memory that the limits leave beside what is in use, or None without a limit."""
    left = []
    for group in _groups("memory", root):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            try:
                most = int((group / limit).read_text())
                left.append((most, most - int((group / used).read_text())))
            except (OSError, ValueError):
                continue
    return min((each for most, each in left if most < _NO_MEMORY_LIMIT), default=None)


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of the groups that this process is in, from the innermost to the root's."""
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
        yield from (each for each in (group, *group.parents) if each.is_relative_to(top))
