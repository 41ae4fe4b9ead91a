"""Processes that train a run: the error that they report, and signals."""

import subprocess
import sys

import pytest

from fasticcl.reproduce.training.run_process import catches_sigterm, error_line
from tests.support.processes import started_process

TRACEBACK = "Traceback (most recent call last):\n  File x, line 1\n    call()\n"


@pytest.mark.parametrize(
    ("output", "exit_code", "expected"),
    [
        ("epoch 1\nerror: The loss is not finite. Lower it.\n", 1, "The loss is not finite. Lower it."),
        (f"{TRACEBACK}RuntimeError: one\n  two\nthree\n", 1, "RuntimeError: one"),
        (f"{TRACEBACK}KeyError: 1\n\nDuring that:\n\n{TRACEBACK}TypeError: 2\n", 1, "TypeError: 2"),
        ("error: an earlier one\nSegmentation fault\n", -11, "killed by SIGSEGV"),
        ("", -9, "killed by SIGKILL, perhaps because memory ran out"),
        ("the state is saved\n", 143, "stopped by a signal"),
        ("\nusage\nlast line\n\n", 2, "last line"),
        ("", 3, "exit code 3 without output"),
        (TRACEBACK, 1, "    call()"),
    ],
)
def test_error_is_named_by_its_first_line(output, exit_code, expected):
    assert error_line(output, exit_code) == expected


@pytest.mark.parametrize("handler", ["signal.SIG_DFL", "signal.SIG_IGN", "print"])
def test_handler_of_another_process_is_detected(handler):
    install = f"import signal, sys; signal.signal(signal.SIGTERM, {handler})"
    script = f"{install}; print(1, flush=True); sys.stdin.read()"
    with started_process(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        assert catches_sigterm(process.pid) == (handler == "print")
        process.stdin.close()
    assert not catches_sigterm(process.pid)
