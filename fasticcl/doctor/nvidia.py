"""Driver and GPUs as the system knows them, without torch."""

import contextlib
import ctypes
import os
import re
import subprocess
from pathlib import Path

from fasticcl.doctor.facts import Card, Nvidia
from fasticcl.system.hardware import query_nvidia_smi

_VENDOR = "0x10de"
_DISPLAYS = ("0x0300", "0x0302")  # PCI classes: VGA and 3D controllers


def read() -> Nvidia:
    """Return what is known of driver and GPUs; all empty on a machine without them."""
    trouble, rows = "", []
    try:
        rows = query_nvidia_smi(["driver_version", "name", "memory.total"])
    except subprocess.CalledProcessError as error:  # it says why on its standard output
        trouble = (error.stdout or error.stderr or "").strip().partition("\n")[0] or str(error)
    except subprocess.SubprocessError as error:
        trouble = str(error)
    except OSError:  # not installed
        pass
    return Nvidia(
        on_bus=_on_bus(Path("/sys/bus/pci/devices")),
        driver=rows[0][0] if rows else _kernel_module(Path("/proc/driver/nvidia/version")),
        cuda=_newest_cuda(),
        cards=tuple(Card(name, float(memory) if memory.isdigit() else 0.0) for _, name, memory in rows),
        trouble=trouble,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def _on_bus(devices: Path) -> int:
    count = 0
    for device in devices.glob("*"):
        with contextlib.suppress(OSError):
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
            count += vendor == _VENDOR and kind.startswith(_DISPLAYS)
    return count


def _kernel_module(version: Path) -> str:
    """Return the version of the driver that the kernel has loaded, where nvidia-smi does not say it."""
    try:
        found = re.search(r"NVRM version:.*?\s(\d+(\.\d+)+)\s", version.read_text())
    except OSError:
        return ""
    return found[1] if found else ""


def _newest_cuda() -> int:
    """Return the newest major version of CUDA that libcuda serves; 0 without one.

    It is the library that answers, since a compatibility package may put a newer one over an old driver.
    """
    number = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return 0
    return 0 if failed else number.value // 1000
