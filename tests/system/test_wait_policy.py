"""Wait policy of OpenMP threads, as libgomp reports it when it is loaded with torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fasticcl.doctor.host import read_limits
from fasticcl.system.wait_policy import describe_wait_policy, idle_threads_sleep, let_idle_threads_sleep

ROOT = Path(__file__).parents[2]
NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
LIBGOMP = [*(Path(torch.__file__).parent / "lib").glob("libgomp*")]
with_libgomp = pytest.mark.skipif(not LIBGOMP, reason="torch has no libgomp of its own")


def spin_counts(*command: str, **variables: str) -> set[str]:
    """Return the spin counts that libgomp prints when a process loads it."""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | variables
    environment["OMP_DISPLAY_ENV"] = "VERBOSE"
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=120, env=environment
    )
    lines = [line.split("=") for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    return {value.strip().strip("'") for _, value in lines}


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """A module torch that only loads libgomp, because importing torch takes seconds."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text(f"import ctypes\nctypes.CDLL({str(LIBGOMP[0])!r})\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))


@with_libgomp
def test_idle_threads_sleep_at_once():
    assert spin_counts("-c", "import fasticcl, torch") == {"0"}


@with_libgomp
@pytest.mark.usefixtures("stub")
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("-m", "fasticcl", "eval", "missing"), id="module"),
        pytest.param(("-c", "import tests.conftest"), id="tests"),
        pytest.param(("benchmarks/step.py", "--help"), id="benchmark"),
    ],
)
def test_every_entry_point_sets_the_policy_before_it_imports_torch(command):
    assert spin_counts(*command) == {"0"}


@with_libgomp
@pytest.mark.usefixtures("stub")
def test_torch_imported_first_keeps_the_default():
    """This shows that the spin count above is not a default of this machine."""
    assert spin_counts("-c", "import torch, fasticcl") == {"300000"}


@with_libgomp
@pytest.mark.usefixtures("stub")
def test_the_policy_of_the_user_is_kept():
    assert spin_counts("-c", "import fasticcl, torch", GOMP_SPINCOUNT="77") == {"77"}


@pytest.mark.parametrize("chosen", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "5"}], ids=str)
def test_a_chosen_variable_leaves_both_unchanged(chosen, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    environment = dict(chosen)
    let_idle_threads_sleep(environment)
    assert environment == chosen


@pytest.mark.parametrize(
    ("environment", "described"),
    [
        ({}, "default"),
        ({"OMP_WAIT_POLICY": "active"}, "ACTIVE"),
        ({"GOMP_SPINCOUNT": "5"}, "default, 5 spins"),
        ({"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "5"}, "PASSIVE, 5 spins"),
    ],
    ids=str,
)
def test_description_of_the_policy(environment, described):
    assert describe_wait_policy(environment) == described


@pytest.mark.parametrize(
    ("environment", "sleep"),
    [
        ({}, False),
        ({"OMP_WAIT_POLICY": "active"}, False),
        ({"OMP_WAIT_POLICY": "passive"}, True),
        ({"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "300000"}, False),
        ({"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "infinite"}, False),
        ({"GOMP_SPINCOUNT": "1000"}, False),
        ({"GOMP_SPINCOUNT": "0"}, True),
    ],
    ids=str,
)
def test_threads_sleep_at_once(environment, sleep):
    assert idle_threads_sleep(environment) == sleep


def test_a_process_with_torch_is_left_unchanged():
    environment = {}
    let_idle_threads_sleep(environment)
    assert environment == {}


def test_doctor_reads_the_policy_of_this_process(monkeypatch):
    for spins in ("0", "300000"):
        monkeypatch.setenv("GOMP_SPINCOUNT", spins)
        assert read_limits().idle_threads_sleep == (spins == "0")
