"""How many threads a process should use."""

import math
import os

from fasticcl.data.control_group import cpu_quota


def available_cores() -> int:
    """Return this process's share of the cores: those it may use, divided among the ranks of its machine."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # as torchrun sets it
    return max(1, usable_cores() // ranks)


def usable_cores() -> int:
    """Return how many cores may be kept busy here, by affinity and by control group."""
    cores, quota = len(os.sched_getaffinity(0)), cpu_quota()
    return cores if quota is None else min(cores, max(1, math.ceil(quota)))
