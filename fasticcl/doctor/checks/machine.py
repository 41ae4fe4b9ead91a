"""Cores, memory, shared memory and open files."""

import math

from fasticcl.doctor.facts import Facts
from fasticcl.doctor.finding import Finding

_GIB = 2**30
_MEMORY = 2 * _GIB  # the demonstration, the smallest there is, takes half of it
_SHARED = _GIB  # what NCCL's manual has a container started with; Docker's default is 64 MiB
_CORES_PER_GPU = 4  # fewer cannot prepare images as fast as a GPU takes them
_OPEN_FILES = 1024
_OTHER_FILES = 64  # open beside the shards


def cores(facts: Facts) -> Finding:
    """Whether there are enough cores, and torch knows how many."""
    limits, gpus = facts.limits, len(facts.nvidia.cards)
    usable = limits.cores if limits.quota is None else min(float(limits.cores), limits.quota)
    text = f"{limits.cores}, {limits.cpu}"
    if usable < limits.cores:
        text += f", the control group grants the time of {usable:g}"
    if limits.torch_threads > math.ceil(usable):
        text += f"; torch would compute with {limits.torch_threads} threads, which wait for each other"
        return Finding("cores", "warning", text, f"export OMP_NUM_THREADS={math.ceil(usable)}")
    if usable < _CORES_PER_GPU * gpus:
        text += f"; fewer than {_CORES_PER_GPU} for each of {gpus} GPUs"
        return Finding("cores", "warning", text, "Ask for more; fasticcl bench train says what binds.")
    if usable < 2:
        advice = "Ask for at least two: one prepares images while the other trains."
        return Finding("cores", "warning", text, advice)
    return Finding("cores", "ok", text)


def memory(facts: Facts) -> Finding:
    """Whether there is memory to train in."""
    limits = facts.limits
    text = f"{_size(limits.memory_free)} free of {_size(limits.memory)}"
    usable = limits.memory_free
    if limits.memory_limit is not None and limits.memory_limit < limits.memory:
        text += f", of which the control group grants {_size(limits.memory_limit)}"
        usable = min(usable, limits.memory_limit)
    if usable < _MEMORY:
        advice = (
            "Make room, or ask for more; a smaller --batch-size, fewer --workers and --cache off take less."
        )
        return Finding("memory", "warning", text, advice)
    return Finding("memory", "ok", text)


def shared_memory(facts: Facts) -> Finding:
    """Whether ranks on one machine can talk through shared memory."""
    size = facts.limits.shared
    if size >= _SHARED:
        return Finding("shared memory", "ok", f"{_size(size)} in /dev/shm")
    text = f"{_size(size)} in /dev/shm" if size else "there is no /dev/shm"
    text += "; enough for one process, not for several GPUs that train together (--nproc)"
    return Finding("shared memory", "warning", text, "Start a container with --shm-size=1g or --ipc=host.")


def open_files(facts: Facts) -> Finding:
    """Whether all shards can be open at once."""
    most, shards = facts.limits.open_files, facts.stored.shards if facts.stored else 0
    text = "no limit" if most >= 2**62 else f"up to {most:,}"
    advice = "Raise the hard limit: ulimit -Hn 65536, in a container --ulimit nofile=65536."
    if most < shards + _OTHER_FILES:
        text += f", too few for {shards:,} shards, which are all kept open"
        return Finding("open files", "error", text, f"{advice} Or convert with a larger --shard-size.")
    if most < _OPEN_FILES:
        return Finding("open files", "warning", f"{text}; a dataset of many shards needs more", advice)
    return Finding("open files", "ok", text)


def _size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / 2**20:.0f} MiB"
