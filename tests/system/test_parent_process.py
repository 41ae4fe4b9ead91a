"""A subprocess ends with the process that has started it."""

import os
import signal
import subprocess
import sys

import pytest

from fasticcl.system import parent_process
from fasticcl.system.parent_process import child_environment, end_with_parent

CHILD = f"""
import runpy, signal, time
signal.signal(signal.SIGTERM, lambda *_: print("saved", flush=True) or exit())
runpy.run_path({parent_process.__file__!r})["end_with_parent"]()
print("ready", flush=True)
time.sleep(60)
"""
PARENT = f"""
import runpy, subprocess, sys, time
environment = runpy.run_path({parent_process.__file__!r})["child_environment"]()
subprocess.Popen([sys.executable, "-c", {CHILD!r}], env=environment)
time.sleep(60)
"""


def test_child_of_a_killed_process_gets_sigterm():
    """Both processes load only the module, not the package."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "ready\n"
        parent.send_signal(signal.SIGKILL)
        assert parent.stdout.read() == "saved\n"  # until the child has closed its output


def test_child_that_starts_after_the_end_of_its_parent_exits():
    environment = {"FASTICCL_PARENT": str(os.getppid() + 1)}
    with pytest.raises(SystemExit) as left:
        end_with_parent(environment)
    assert left.value.code == 143
    assert environment == {}


def test_process_that_is_not_asked_to_end_stays(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", None)  # it would be called
    end_with_parent({})
    assert child_environment({"A": "1"}) == {"A": "1", "FASTICCL_PARENT": str(os.getpid())}
