"""Environment variables that torchrun sets for each rank. A process without them is rank 0 of 1."""

import os


def is_launched_rank() -> bool:
    """Return True if this process was launched as a rank."""
    return "RANK" in os.environ


def rank() -> int:
    """Return the global rank of this process."""
    return _read("RANK", 0)


def local_rank() -> int:
    """Return the rank of this process on its machine, which is also its GPU index."""
    return _read("LOCAL_RANK", 0)


def world_size() -> int:
    """Return the number of ranks on all machines."""
    return _read("WORLD_SIZE", 1)


def local_world_size() -> int:
    """Return the number of ranks on this machine."""
    return _read("LOCAL_WORLD_SIZE", 1)


def restart_count() -> int:
    """Return the number of times that torchrun has restarted the ranks."""
    return _read("TORCHELASTIC_RESTART_COUNT", 0)


def _read(name: str, default: int) -> int:
    return int(os.environ.get(name, default))
