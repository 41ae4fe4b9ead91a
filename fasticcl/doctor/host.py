"""Installed software and resource limits of this process, read without importing torch or DALI."""

import os
import platform
import re
import resource
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distributions, requires
from pathlib import Path

from fasticcl.doctor.facts import Limits, Software
from fasticcl.system.hardware import bfloat16_instructions, cpu_model
from fasticcl.system.resources import cpu_quota, memory_limit
from fasticcl.system.wait_policy import idle_threads_sleep
from fasticcl.version import __version__

_SHARED_MEMORY = Path("/dev/shm")


def read_software() -> Software:
    """Return the versions of Python and of the installed packages, and their requirements."""
    return Software(
        fasticcl=__version__,
        python=platform.python_version(),
        system=" ".join([platform.system(), platform.machine(), *filter(None, platform.libc_ver())]),
        packages=dict(reversed([*_packages()])),  # of duplicates, Python imports the first
        minimum_versions={name: version.removeprefix(">=") for name, version in _requirements("fasticcl")},
        torch_required_by_torchvision=dict(_requirements("torchvision")).get("torch", ""),
    )


def _packages() -> Iterator[tuple[str, str]]:
    """Yield name and version of torch, torchvision and all DALI packages, including duplicates."""
    for package in distributions():
        name = re.sub(r"[-_.]+", "-", package.metadata["Name"] or "").lower()  # PEP 503
        if name in ("torch", "torchvision") or name.startswith("nvidia-dali"):
            yield name, package.version


def _requirements(package: str) -> Iterator[tuple[str, str]]:
    """Yield the requirements of an installed package as name and first ``==`` or ``>=`` specifier."""
    try:
        requirements = requires(package) or []
    except PackageNotFoundError:
        return
    for requirement in requirements:
        match = re.match(r"([\w.-]+)\s*\(?((?:==|>=)\s*[\w.+]+)?", requirement)
        if match and "extra ==" not in requirement:
            yield match[1], (match[2] or "").replace(" ", "")


def read_limits() -> Limits:
    """Return the cores, memory, shared memory and open files available to this process."""
    cores = len(os.sched_getaffinity(0))
    omp_threads = os.environ.get("OMP_NUM_THREADS", "")
    lines = Path("/proc/meminfo").read_text().splitlines()
    memory = {
        name: 1024 * int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)
    }
    _, open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Limits(
        cpu=cpu_model(),
        bfloat16=bfloat16_instructions(),
        cores=cores,
        cpu_quota=cpu_quota(),
        torch_threads=int(omp_threads) if omp_threads.isdigit() else cores,
        idle_threads_sleep=idle_threads_sleep(),
        memory=memory["MemTotal"],
        free_memory=memory["MemAvailable"],
        memory_limit=memory_limit(),
        shared_memory=_filesystem_size(_SHARED_MEMORY),
        open_files=2**62 if open_files == resource.RLIM_INFINITY else open_files,
    )


def _filesystem_size(folder: Path) -> int:
    try:
        status = os.statvfs(folder)
    except OSError:
        return 0
    return status.f_frsize * status.f_blocks
