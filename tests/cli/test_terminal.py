"""Commands with a closed standard output: training continues, read-only commands end with SIGPIPE."""

import os
import signal
import subprocess

import pytest

import fasticcl
from tests.support.command_line import cli_command
from tests.support.small_runs import SMALL, TINY

SETTINGS = [word for key, value in (SMALL | TINY).items() for word in ("--set", f"{key}={value}")]


@pytest.fixture
def run_with_closed_output(tmp_path):
    """A function that runs the command line in a subprocess whose standard output is closed."""

    def call(*arguments, stderr=subprocess.PIPE, before=""):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            words = cli_command(*arguments, before=before)
            return subprocess.run(words, cwd=tmp_path, stdout=writer, stderr=stderr, text=True)
        finally:
            os.close(writer)

    return call


@pytest.mark.parametrize("stderr_closed", [False, True], ids=["stdout", "stdout and stderr"])
def test_training_continues_if_its_output_is_closed(
    run_with_closed_output, tiny_shards, tmp_path, stderr_closed
):
    arguments = ["train", "demo", "--data", tiny_shards, "--name", "run", "--epochs", 2, "--batch-size", 20]
    process = run_with_closed_output(
        *arguments, *SETTINGS, stderr=subprocess.STDOUT if stderr_closed else subprocess.PIPE
    )
    assert process.returncode == 0
    warning = "warning  standard output is closed, but the command continues\n"
    assert process.stderr == (None if stderr_closed else warning)
    assert set(fasticcl.evaluate(tmp_path / "runs/demo/run").rows) == {"before", "after", "best"}


def test_warnings_are_written_to_standard_error_if_the_output_is_closed(run_with_closed_output, tiny_shards):
    full_disk = """
import errno, fasticcl.engine.run.checkpoint
def save(*_): raise OSError(errno.ENOSPC, "No space left on device")
fasticcl.engine.run.checkpoint.save_checkpoint = save"""
    arguments = ["train", "demo", "--data", tiny_shards, "--epochs", 2, "--batch-size", 20, *SETTINGS]
    process = run_with_closed_output(*arguments, before=full_disk)
    assert "last.pt: No space left on device. Free some space" in process.stderr


def test_read_only_command_ends_with_sigpipe_and_no_message(run_with_closed_output):
    process = run_with_closed_output("presets")
    assert (process.returncode, process.stderr) == (-signal.SIGPIPE, "")


def test_command_called_in_process_does_not_change_the_sigpipe_handler(run_cli):
    before = signal.getsignal(signal.SIGPIPE)
    assert "iccl" in run_cli("presets")[1]
    assert signal.getsignal(signal.SIGPIPE) is before
