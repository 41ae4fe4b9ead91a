"""``fasticcl doctor`` on this machine and on simulated machines."""

import json
import sys
from importlib.metadata import version

import pytest

import fasticcl
from fasticcl.doctor import examine
from tests.support.command_line import run_cli_subprocess
from tests.support.doctor_facts import H100, LAPTOP, with_limits, with_probes

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
    for name in ("torchvision on the CPU", "DALI on the CPU", "all in one process"):
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


@pytest.fixture
def doctor(run_cli, monkeypatch):
    """A function that runs doctor in this process on a simulated machine and returns exit code and output."""

    def call(facts, *options):
        monkeypatch.setattr(examine, "gather", lambda _: facts)
        return run_cli("doctor", *options)[:2]

    return call


@pytest.mark.parametrize(
    ("facts", "code"),
    [(H100, 0), (with_limits(shared_memory=0), 0), (with_probes(dali="ImportError: x"), 1)],
    ids=["ok", "warning", "error"],
)
def test_exit_code_is_1_for_errors_only(doctor, facts, code):
    assert doctor(facts)[0] == doctor(facts, "--json")[0] == code


def test_lines_without_a_terminal_are_not_wrapped_and_advice_follows_its_finding(doctor):
    _, output = doctor(with_probes(torchvision="RuntimeError: operator [torchvision]::nms does not exist"))
    lines = output.splitlines()
    (number,) = (i for i, line in enumerate(lines) if line.startswith("error    torchvision "))
    assert "operator [torchvision]::nms does not exist" in lines[number]
    advice = lines[number + 1].lstrip()
    assert advice.startswith("to do: Install both from the same index: pip uninstall")
    assert lines[-1] == "ok 10, warnings 0, errors 1"
    assert "\x1b" not in output


def test_python_returns_the_same_findings_as_json(doctor, monkeypatch):
    _, output = doctor(LAPTOP, "--json")
    monkeypatch.setattr(examine, "gather", lambda _: LAPTOP)
    assert [finding.to_dict() for finding in fasticcl.doctor()] == json.loads(output)
