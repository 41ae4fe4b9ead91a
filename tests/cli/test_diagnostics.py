"""``fasticcl doctor`` on simulated machines: exit code, lines and JSON."""

import json

import pytest

import fasticcl
from fasticcl.doctor import examine
from tests.support.doctor_facts import H100, LAPTOP, with_limits, with_probes


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
