"""Description of the hardware, with the GPU and without private information."""

import getpass
import platform
import subprocess

import pytest

from fasticcl.system import hardware
from tests.support.nvidia_smi import simulate_nvidia_smi


def test_the_gpu_is_described_with_power_limit_and_driver(monkeypatch):
    simulate_nvidia_smi(monkeypatch, "NVIDIA H200, 143771, 700.00, 580.159.03\n" * 2)
    assert hardware.gpu() == {
        "gpu": "NVIDIA H200",
        "memory_mib": 143771,
        "power_limit_w": 700,
        "driver": "580.159.03",
    }


def test_values_that_nvidia_smi_does_not_report_are_omitted(monkeypatch):
    simulate_nvidia_smi(monkeypatch, "Tesla X, 1000, [N/A], 1.2\n")
    assert hardware.gpu() == {"gpu": "Tesla X", "memory_mib": 1000, "driver": 1.2}


@pytest.mark.parametrize(
    "output", [FileNotFoundError(), subprocess.TimeoutExpired("nvidia-smi", 10), "", "\n"], ids=repr
)
def test_without_a_gpu_there_is_no_entry(monkeypatch, output):
    simulate_nvidia_smi(monkeypatch, output)
    assert hardware.gpu() == {}


@pytest.mark.parametrize(
    ("lines", "model", "instructions"),
    [
        (
            "model name : Some CPU\nflags : fpu avx512bw avx512_bf16 amx_bf16\n",
            "Some CPU",
            ("amx_bf16", "avx512_bf16"),
        ),
        ("model name : Some CPU\nflags : fpu avx512f avx512bw\nbugs : bf16\n", "Some CPU", ()),
        ("processor : 0\nFeatures : fp asimd i8mm bf16\n", platform.machine(), ("bf16",)),  # ARM
    ],
)
def test_cpu_model_and_bfloat16_instructions(monkeypatch, tmp_path, lines, model, instructions):
    (tmp_path / "cpuinfo").write_text(lines)
    monkeypatch.setattr(hardware, "_CPU_INFO", tmp_path / "cpuinfo")
    assert (hardware.cpu_model(), hardware.bfloat16_instructions()) == (model, instructions)


def test_the_description_names_versions_and_neither_host_nor_user():
    described = hardware.hardware()
    assert {"cpu", "cores", "python", "torch", "numpy", "date"} <= set(described)
    text = str(described)
    assert "/" not in text.replace(described["cpu"], "")
    for private in (platform.node(), getpass.getuser()):
        assert private not in text
