"""NVIDIA driver and GPUs, determined without torch."""

import contextlib
import ctypes
import os
import re
import subprocess
from pathlib import Path

from fasticcl.doctor.facts import Gpu, Nvidia
from fasticcl.system.hardware import query_nvidia_smi

_VENDOR = "0x10de"
_DISPLAY_CLASSES = ("0x0300", "0x0302")  # PCI classes of VGA and 3D controllers


def read_nvidia() -> Nvidia:
    """Return the driver and the GPUs. All fields are empty on a machine without them."""
    smi_error, rows = "", []
    try:
        rows = query_nvidia_smi(["driver_version", "name", "memory.total"])
    except subprocess.CalledProcessError as error:  # nvidia-smi reports errors on its standard output
        smi_error = (error.stdout or error.stderr or "").strip().partition("\n")[0] or str(error)
    except subprocess.SubprocessError as error:
        smi_error = str(error)
    except OSError:  # not installed
        pass
    return Nvidia(
        pci_devices=_count_pci_devices(Path("/sys/bus/pci/devices")),
        driver=rows[0][0] if rows else _loaded_driver(Path("/proc/driver/nvidia/version")),
        cuda=_newest_cuda(),
        gpus=tuple(Gpu(name, float(memory) if memory.isdigit() else 0.0) for _, name, memory in rows),
        smi_error=smi_error,
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def _count_pci_devices(devices: Path) -> int:
    count = 0
    for device in devices.glob("*"):
        with contextlib.suppress(OSError):
            vendor, pci_class = ((device / name).read_text().strip() for name in ("vendor", "class"))
            count += vendor == _VENDOR and pci_class.startswith(_DISPLAY_CLASSES)
    return count


def _loaded_driver(version: Path) -> str:
    """Return the version of the driver that the kernel has loaded, used if nvidia-smi does not report it."""
    try:
        match = re.search(r"NVRM version:.*?\s(\d+(\.\d+)+)\s", version.read_text())
    except OSError:
        return ""
    return match[1] if match else ""


def _newest_cuda() -> int:
    """Return the newest major version of CUDA that libcuda supports, or 0 without libcuda.

    The library is queried, not the driver, because a compatibility package can put a newer libcuda on top
    of an old driver.
    """
    version = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return 0
    return 0 if failed else version.value // 1000
