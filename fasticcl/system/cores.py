"""How many threads a process should use."""

import math
import os

from fasticcl.system.cgroups import cpu_quota
from fasticcl.system.rank_environment import local_world_size


def available_cores() -> int:
    """Return this process's share of the cores: those it may use, divided among the ranks of its machine."""
    return max(1, usable_cores() // local_world_size())


def usable_cores() -> int:
    """Return how many cores may be kept busy here, by affinity and by control group."""
    cores, quota = len(os.sched_getaffinity(0)), cpu_quota()
    return cores if quota is None else min(cores, max(1, math.ceil(quota)))
