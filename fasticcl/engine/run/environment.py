"""What a run was made with, for whoever wants to make it again: versions and hardware, one line a start."""

import platform
from datetime import UTC, datetime
from typing import Any

from fasticcl.system.machine import Machine
from fasticcl.version import __version__, package_version

ENVIRONMENT = "environment.jsonl"
PACKAGES = ("torch", "torchvision", "nvidia-dali-cuda120", "numpy")


def environment(machine: Machine, data_sha256: str) -> dict[str, Any]:
    """Return versions, device, ranks and what the data is; no names of hosts, users or folders."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "fasticcl": __version__,
        "python": platform.python_version(),
        **{name: package_version(name) for name in PACKAGES},
        "machine": machine.describe(),
        "ranks": machine.ranks.world_size,
        "data": data_sha256[:12],
    }
