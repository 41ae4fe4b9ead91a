"""Description of the hardware for benchmark results, without host names and paths."""

import datetime
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fasticcl.system.wait_policy import describe_wait_policy
from fasticcl.version import package_version

PACKAGES = ("torch", "torchvision", "pillow", "nvidia-dali-cuda120", "numpy")
_GPU = {
    "name": "gpu",
    "memory.total": "memory_mib",
    "power.limit": "power_limit_w",
    "driver_version": "driver",
}
_TIMEOUT = 10  # seconds for nvidia-smi
_CPU_INFO = Path("/proc/cpuinfo")
_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")  # the first two are flags of x86, the last a feature of ARM


def hardware() -> dict[str, Any]:
    """Return the CPU model, usable cores, load, wait policy of OpenMP, first GPU (if any), package versions
    and date."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "openmp_wait_policy": describe_wait_policy(),
        **gpu(),
        "python": platform.python_version(),
        **{package: version for package in PACKAGES if (version := package_version(package))},
        "date": datetime.date.today().isoformat(),
    }


def cpu_model() -> str:
    """Return the CPU model name from ``/proc/cpuinfo``."""
    return _cpu_info("model name") or platform.machine()  # some architectures report no model name


def bfloat16_instructions() -> tuple[str, ...]:
    """Return the bfloat16 instruction sets of the CPU, as the Linux kernel calls them, or () without any.

    This does not import torch, whose ``torch.ops.mkldnn._is_mkldnn_bf16_supported()`` is also true for CPUs
    that have AVX-512 but must emulate bfloat16.
    """
    supported = {*_cpu_info("flags").split(), *_cpu_info("Features").split()}
    return tuple(name for name in _BFLOAT16 if name in supported)


def _cpu_info(field: str) -> str:
    """Return a field of the first CPU in ``/proc/cpuinfo``, or an empty string."""
    for line in _CPU_INFO.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == field:
            return value.strip()
    return ""


def gpu() -> dict[str, str | float]:
    """Return name, memory in MiB, power limit in watts and driver of the first GPU, or {} without a GPU.

    Values that nvidia-smi does not report are omitted.
    """
    try:
        rows = query_nvidia_smi(_GPU)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = zip(_GPU.values(), rows[0] if rows else (), strict=False)
    return {name: _number(value) for name, value in values if value and not value.startswith("[")}


def query_nvidia_smi(fields: Iterable[str]) -> list[list[str]]:
    """Return the values of ``fields`` for every GPU, as reported by nvidia-smi.

    Raises:
        OSError: nvidia-smi is not installed.
        subprocess.SubprocessError: nvidia-smi fails or times out.
    """
    fields = [*fields]
    query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    output = subprocess.run(query, capture_output=True, text=True, timeout=_TIMEOUT, check=True).stdout
    rows = [[value.strip() for value in line.split(",")] for line in output.splitlines()]
    return [row for row in rows if len(row) == len(fields)]


def _number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text
