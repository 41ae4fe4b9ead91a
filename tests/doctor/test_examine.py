"""``fasticcl doctor`` as a person meets it."""

import json
import sys

import pytest

import fasticcl
from fasticcl.cli.main import main
from fasticcl.doctor import examine
from tests.support.machines import H100, LAPTOP, limited, tried
from tests.support.trees import run

# In doctor's own process nothing can import these.
WITHOUT = "sys.modules['torch'] = sys.modules['torchvision'] = sys.modules['nvidia'] = None"


@pytest.fixture(scope="module")
def here(photo_shards):
    """Doctor on this machine, in a process that can import neither torch nor DALI."""
    return run("doctor", "--data", photo_shards, "--json", before=WITHOUT)


def test_doctor_examines_this_machine_without_importing_torch_or_dali_itself(here):
    assert here.stderr == ""
    findings = {found.pop("name"): found for found in json.loads(here.stdout)}
    for name in ("Python", "torch", "torchvision", "DALI", "CUDA pairing", "shards", "disk"):
        assert findings[name]["status"] == "ok", findings[name]
    for name in ("torchvision on the CPU", "DALI on the CPU", "all in one process"):
        assert findings[f"decode: {name}"]["found"].startswith("the built-in picture, colours within")
    assert {"driver", "cores", "memory", "shared memory", "open files"} <= set(findings)
    assert here.returncode == any(each["status"] == "error" for each in findings.values())


def test_what_is_pasted_into_an_issue_has_the_versions(here):
    from importlib.metadata import version

    for package in ("torch", "torchvision", "nvidia-dali-cuda120"):
        assert version(package) in here.stdout
    assert fasticcl.__version__ in here.stdout
    assert sys.version.split()[0] in here.stdout


@pytest.fixture
def command(monkeypatch, capsys):
    """Doctor in this process, on a machine that is told; returns exit code and output."""

    def call(facts, *options):
        monkeypatch.setattr(examine, "gather", lambda _: facts)
        monkeypatch.setattr(sys, "argv", ["fasticcl", "doctor", *options])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, capsys.readouterr().out

    return call


@pytest.mark.parametrize(
    ("facts", "code"),
    [(H100, 0), (limited(shared=0), 0), (tried(dali="ImportError: x"), 1)],
    ids=["well", "warning", "error"],
)
def test_the_exit_code_tells_errors_from_warnings(command, facts, code):
    assert command(facts)[0] == command(facts, "--json")[0] == code


def test_lines_are_whole_where_no_terminal_is_and_advice_stands_under_them(command):
    _, out = command(tried(torchvision="RuntimeError: operator [torchvision]::nms does not exist"))
    lines = out.splitlines()
    (place,) = (at for at, line in enumerate(lines) if line.startswith("error    torchvision "))
    assert "operator [torchvision]::nms does not exist" in lines[place]
    assert lines[place + 1].lstrip().startswith("to do: Install both from one place: pip uninstall")
    assert lines[-1] == "ok 10, warnings 0, errors 1"
    assert "\x1b" not in out


def test_python_gets_what_json_says(command, monkeypatch):
    _, out = command(LAPTOP, "--json")
    monkeypatch.setattr(examine, "gather", lambda _: LAPTOP)
    assert [finding.to_dict() for finding in fasticcl.doctor()] == json.loads(out)
