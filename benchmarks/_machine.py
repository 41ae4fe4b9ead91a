"""What a benchmark ran on, for its results file."""

import datetime
import os
import platform
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("torch", "torchvision", "pillow", "nvidia-dali-cuda120", "numpy")


def machine() -> dict[str, str | int]:
    """Return the CPU, the cores that this process may use, versions and the date; no names, no paths."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "date": datetime.date.today().isoformat(),
    }


def cpu_model() -> str:
    """Return the model name that the kernel reports."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()  # not every architecture names its model
