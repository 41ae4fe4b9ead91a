"""How many threads a process should use."""

import os


def available_cores() -> int:
    """Return this process's share of the cores: those it may use, divided among the ranks of its machine."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # as torchrun sets it
    return max(1, len(os.sched_getaffinity(0)) // ranks)
