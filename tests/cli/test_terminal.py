"""Commands with a closed standard output: training continues, read-only commands end with SIGPIPE."""

import errno
import os
import signal
import subprocess
import sys

import pytest

import fasticcl
from fasticcl.engine.run import checkpoint
from tests.support.command_line import cli_command
from tests.support.processes import Child, call_main_in
from tests.support.small_runs import SMALL, TINY

SETTINGS = [word for key, value in (SMALL | TINY).items() for word in ("--set", f"{key}={value}")]


def train_with_closed_output(arguments, folder, stderr_closed=False, full_disk=False):
    """Run a training command in a `Child` whose standard output is closed."""
    if full_disk:
        checkpoint.save_checkpoint = raise_full_disk
    reader, writer = os.pipe()
    os.close(reader)
    for descriptor in (1, 2) if stderr_closed else (1,):
        os.dup2(writer, descriptor)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  buffered, also if PYTHONUNBUFFERED is set
    call_main_in(folder, "train", "demo", "--epochs", 2, "--batch-size", 20, *SETTINGS, *arguments)


def raise_full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("stderr_closed", [False, True], ids=["stdout", "stdout and stderr"])
def test_training_continues_if_its_output_is_closed(tiny_shards, tmp_path, stderr_closed):
    arguments = ["--data", tiny_shards, "--name", "run"]
    child = Child(tmp_path / "log", train_with_closed_output, arguments, tmp_path, stderr_closed)
    assert child.exit_code() == 0  # also after the last flush of the standard output
    warning = "warning  standard output is closed, but the command continues\n"
    assert child.printed() == ("" if stderr_closed else warning)
    assert set(fasticcl.evaluate(tmp_path / "runs/demo/run").rows) == {"before", "after", "best"}


def test_warnings_are_written_to_standard_error_if_the_output_is_closed(tiny_shards, tmp_path):
    arguments = ["--data", tiny_shards]
    child = Child(tmp_path / "log", train_with_closed_output, arguments, tmp_path, full_disk=True)
    assert child.exit_code() == 1
    assert "last.pt: No space left on device. Free some space" in child.printed()


def test_read_only_command_ends_with_sigpipe_and_no_message():
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed:
        process = subprocess.run(cli_command("presets"), stdout=closed, stderr=subprocess.PIPE, text=True)
    assert (process.returncode, process.stderr) == (-signal.SIGPIPE, "")


def test_command_called_in_process_does_not_change_the_sigpipe_handler(run_cli):
    before = signal.getsignal(signal.SIGPIPE)
    assert "iccl" in run_cli("presets")[1]
    assert signal.getsignal(signal.SIGPIPE) is before
