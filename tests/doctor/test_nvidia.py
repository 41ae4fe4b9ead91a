"""Driver and GPUs from nvidia-smi, the PCI bus and the kernel module."""

import subprocess

import pytest

from fasticcl.doctor import nvidia
from fasticcl.doctor.facts import Gpu
from tests.support.nvidia_smi import simulate_nvidia_smi


def test_driver_and_gpus_are_read_from_nvidia_smi(monkeypatch):
    simulate_nvidia_smi(monkeypatch, "525.60, NVIDIA A100-SXM4-40GB, 40960\n525.60, NVIDIA GB10, [N/A]\n")
    driver_info = nvidia.read_nvidia()
    assert driver_info.driver == "525.60"  # not 525.6
    assert driver_info.gpus == (Gpu("NVIDIA A100-SXM4-40GB", 40960), Gpu("NVIDIA GB10", 0))
    assert driver_info.smi_error == ""


@pytest.mark.parametrize(
    ("output", "smi_error"),
    [
        (FileNotFoundError(), ""),
        ("No devices were found\n", ""),
        (
            subprocess.CalledProcessError(18, "nvidia-smi", output="Failed to initialize NVML\nNVML: 580\n"),
            "Failed to initialize NVML",
        ),
        (subprocess.TimeoutExpired("nvidia-smi", 10), "Command 'nvidia-smi' timed out after 10 seconds"),
    ],
    ids=["missing", "no GPU", "fails", "hangs"],
)
def test_only_failures_of_nvidia_smi_are_errors(monkeypatch, output, smi_error):
    simulate_nvidia_smi(monkeypatch, output)
    driver_info = nvidia.read_nvidia()
    assert (driver_info.gpus, driver_info.smi_error) == ((), smi_error)


def test_only_nvidia_display_controllers_on_the_bus_count(tmp_path):
    for name, vendor, pci_class in (
        ("a", "0x10de", "0x030200"),
        ("b", "0x10de", "0x030000"),
        ("c", "0x10de", "0x040300"),  # audio
        ("d", "0x8086", "0x030000"),  # Intel
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{pci_class}\n")
    assert nvidia._count_pci_devices(tmp_path) == 2
    assert nvidia._count_pci_devices(tmp_path / "nowhere") == 0


@pytest.mark.parametrize("kind", ["x86_64 Kernel Module", "Open Kernel Module for x86_64"])
def test_driver_version_is_read_from_the_kernel_without_nvidia_smi(tmp_path, kind):
    path = tmp_path / "version"
    path.write_text(f"NVRM version: NVIDIA UNIX {kind}  580.65.06  Release Build\nGCC version: gcc 13.2\n")
    assert nvidia._loaded_driver(path) == "580.65.06"
    assert nvidia._loaded_driver(tmp_path / "none") == ""
