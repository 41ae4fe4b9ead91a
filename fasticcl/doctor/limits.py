"""What this process may use of the machine."""

import os
import resource
from pathlib import Path

from fasticcl.doctor.facts import Limits
from fasticcl.system.hardware import cpu_model
from fasticcl.system.resources import cpu_quota, memory_limit

_SHARED = Path("/dev/shm")


def read() -> Limits:
    """Return cores, memory, shared memory and open files that this process may use."""
    cores = len(os.sched_getaffinity(0))
    asked = os.environ.get("OMP_NUM_THREADS", "")
    lines = Path("/proc/meminfo").read_text().splitlines()
    memory = {
        name: 1024 * int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)
    }
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Limits(
        cpu=cpu_model(),
        cores=cores,
        quota=cpu_quota(),
        torch_threads=int(asked) if asked.isdigit() else cores,
        memory=memory["MemTotal"],
        memory_free=memory["MemAvailable"],
        memory_limit=memory_limit(),
        shared=_size(_SHARED),
        open_files=2**62 if most_files == resource.RLIM_INFINITY else most_files,
    )


def _size(folder: Path) -> int:
    try:
        found = os.statvfs(folder)
    except OSError:
        return 0
    return found.f_frsize * found.f_blocks
