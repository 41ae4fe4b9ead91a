"""``fasticcl doctor`` on this machine."""

import json
import sys
from importlib.metadata import version

import pytest

import fasticcl
from tests.support.command_line import run_cli_subprocess

# Makes these packages impossible to import in the main process of doctor. The probes run in subprocesses.
BLOCK_IMPORTS = "sys.modules['torch'] = sys.modules['torchvision'] = sys.modules['nvidia'] = None"


@pytest.fixture(scope="module")
def doctor_process(photo_shards):
    """The completed process of doctor on this machine, in which torch and DALI could not be imported."""
    return run_cli_subprocess("doctor", "--data", photo_shards, "--json", before=BLOCK_IMPORTS)


def test_doctor_examines_this_machine_without_importing_torch_or_dali(doctor_process):
    assert doctor_process.stderr == ""
    findings = {finding.pop("name"): finding for finding in json.loads(doctor_process.stdout)}
    for name in ("Python", "torch", "torchvision", "DALI", "CUDA pairing", "shards", "disk"):
        assert findings[name]["status"] == "ok", findings[name]
    for name in ("DALI on the CPU", "all in one process"):
        description = findings[f"decode: {name}"]["found"]
        assert description.startswith("the colours of the reference image are within")
    assert {"driver", "cores", "memory", "shared memory", "open files"} <= set(findings)
    has_errors = any(finding["status"] == "error" for finding in findings.values())
    assert doctor_process.returncode == has_errors


def test_output_contains_all_versions(doctor_process):
    for package in ("torch", "torchvision", "nvidia-dali-cuda120"):
        assert version(package) in doctor_process.stdout
    assert fasticcl.__version__ in doctor_process.stdout
    assert sys.version.split()[0] in doctor_process.stdout
