"""What a benchmark ran on: no names of machines, no paths."""

import datetime
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fasticcl.version import package_version

PACKAGES = ("torch", "torchvision", "pillow", "nvidia-dali-cuda120", "numpy")
_GPU = {
    "name": "gpu",
    "memory.total": "memory_mib",
    "power.limit": "power_limit_w",
    "driver_version": "driver",
}
_PATIENCE = 10  # seconds for nvidia-smi


def hardware() -> dict[str, Any]:
    """Return CPU, cores that this process may use, versions, date and, where there is one, the GPU."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        **gpu(),
        "python": platform.python_version(),
        **{package: found for package in PACKAGES if (found := package_version(package))},
        "date": datetime.date.today().isoformat(),
    }


def cpu_model() -> str:
    """Return the model name that the kernel reports."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()  # not every architecture names its model


def gpu() -> dict[str, str | float]:
    """Return name, memory in MiB, power limit in watts and driver of the first GPU; nothing without one.

    What nvidia-smi does not know is left out.
    """
    try:
        rows = query_nvidia_smi(_GPU)
    except (OSError, subprocess.SubprocessError):
        return {}
    described = zip(_GPU.values(), rows[0] if rows else (), strict=False)
    return {name: _number(value) for name, value in described if value and not value.startswith("[")}


def query_nvidia_smi(fields: Iterable[str]) -> list[list[str]]:
    """Return what nvidia-smi says of every GPU, in the order of ``fields``.

    Raises:
        OSError: there is no nvidia-smi.
        subprocess.SubprocessError: it fails, or does not answer.
    """
    fields = [*fields]
    query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    found = subprocess.run(query, capture_output=True, text=True, timeout=_PATIENCE, check=True).stdout
    rows = [[value.strip() for value in line.split(",")] for line in found.splitlines()]
    return [row for row in rows if len(row) == len(fields)]


def _number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text
