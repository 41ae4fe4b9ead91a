"""Checks of cores, memory, shared memory and open files."""

import math

from fasticcl.doctor.facts import Facts, Finding
from fasticcl.plural import counted

_GIB = 2**30
_MIN_MEMORY = 2 * _GIB  # the demonstration, the smallest run, needs half of it
_MIN_SHARED_MEMORY = _GIB  # recommended by NCCL's documentation. Docker's default is 64 MiB.
_CORES_PER_GPU = 4  # fewer cannot prepare images as fast as a GPU consumes them
_OPEN_FILES = 1024
_OTHER_FILES = 64  # open in addition to the shards


def cores(facts: Facts) -> Finding:
    """Check that there are enough cores, that torch has no more threads, and that idle threads sleep."""
    limits, gpus = facts.limits, len(facts.nvidia.gpus)
    usable = limits.cores if limits.cpu_quota is None else min(float(limits.cores), limits.cpu_quota)
    text = f"{limits.cores}, {limits.cpu}"
    if usable < limits.cores:
        text += f", the control group limits CPU time to {counted(usable, 'core')}"
    if limits.torch_threads > math.ceil(usable):
        text += f", but torch would use {limits.torch_threads} threads, which would slow each other down"
        return Finding("cores", "warning", text, f"export OMP_NUM_THREADS={math.ceil(usable)}")
    if usable < _CORES_PER_GPU * gpus:
        text += f", fewer than {_CORES_PER_GPU} for {'the GPU' if gpus == 1 else f'each of {gpus} GPUs'}"
        advice = "Request more cores. fasticcl bench train shows the bottleneck."
        return Finding("cores", "warning", text, advice)
    if usable < 2:
        advice = "Use at least two cores, one to prepare images while the other trains."
        return Finding("cores", "warning", text, advice)
    if not limits.idle_threads_sleep:
        text += ", but idle threads of torch spin, which slows down other work on these cores"
        advice = "Unset OMP_WAIT_POLICY and GOMP_SPINCOUNT. In Python, import fasticcl before torch."
        return Finding("cores", "warning", text, advice)
    return Finding("cores", "ok", text)


def bfloat16(facts: Facts) -> Finding | None:
    """Report bfloat16 instructions of the CPU, if it trains. A GPU uses bfloat16 by default."""
    instructions = facts.limits.bfloat16
    if facts.nvidia.gpus or not instructions:
        return None
    text = (
        f"supported by this CPU ({', '.join(instructions)}). The default on a CPU is float32, but "
        "--set engine.precision=bfloat16 may be faster. fasticcl bench step compares the two"
    )
    return Finding("bfloat16", "ok", text)


def memory(facts: Facts) -> Finding:
    """Check that there is enough memory to train."""
    limits = facts.limits
    text = f"{_size(limits.free_memory)} free of {_size(limits.memory)}"
    usable = limits.free_memory
    if limits.memory_limit is not None and limits.memory_limit < limits.memory:
        text += f", the control group limits it to {_size(limits.memory_limit)}"
        usable = min(usable, limits.memory_limit)
    if usable < _MIN_MEMORY:
        advice = (
            "Free or request memory. A smaller --batch-size, fewer --workers and --cache off reduce its use."
        )
        return Finding("memory", "warning", text, advice)
    return Finding("memory", "ok", text)


def shared_memory(facts: Facts) -> Finding:
    """Check that ranks on one machine can communicate through shared memory."""
    size = facts.limits.shared_memory
    if size >= _MIN_SHARED_MEMORY:
        return Finding("shared memory", "ok", f"{_size(size)} in /dev/shm")
    text = f"{_size(size)} in /dev/shm" if size else "there is no /dev/shm"
    text += ", too little to train on several GPUs (--nproc)"
    return Finding("shared memory", "warning", text, "Start the container with --shm-size=1g or --ipc=host.")


def open_files(facts: Facts) -> Finding:
    """Check that all shards can be open at the same time."""
    limit, shards = facts.limits.open_files, facts.stored.shards if facts.stored else 0
    text = "no limit" if limit >= 2**62 else f"up to {limit:,}"
    advice = "Raise the hard limit with ulimit -Hn 65536, or for a container with --ulimit nofile=65536."
    if limit < shards + _OTHER_FILES:
        text += f", too few for {shards:,} shards, which all stay open"
        advice += " Alternatively, convert with a larger --shard-size."
        return Finding("open files", "error", text, advice)
    if limit < _OPEN_FILES:
        return Finding("open files", "warning", f"{text}, too few for a dataset with many shards", advice)
    return Finding("open files", "ok", text)


def _size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / 2**20:.0f} MiB"
