"""Verbs whose output nobody reads: those that work go on, those that look end as other Unix tools do."""

import os
import signal
import subprocess

import pytest

import fasticcl
from fasticcl.cli.main import main
from tests.support.command_line import cli_command
from tests.support.small_runs import SMALL, TINY

SETTINGS = [word for key, value in (SMALL | TINY).items() for word in ("--set", f"{key}={value}")]


@pytest.fixture
def unread(tmp_path):
    """Run the command line with a standard output that nobody reads; standard error may go there too."""

    def call(*arguments, stderr=subprocess.PIPE, before=""):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            words = cli_command(*arguments, before=before)
            return subprocess.run(words, cwd=tmp_path, stdout=writer, stderr=stderr, text=True)
        finally:
            os.close(writer)

    return call


@pytest.mark.parametrize("together", [False, True], ids=["stdout", "stdout and stderr"])
def test_training_goes_on_without_a_reader(unread, tiny_shards, tmp_path, together):
    arguments = ["train", "demo", "--data", tiny_shards, "--name", "run", "--epochs", 2, "--batch-size", 20]
    ended = unread(*arguments, *SETTINGS, stderr=subprocess.STDOUT if together else subprocess.PIPE)
    assert ended.returncode == 0
    said = "warning  standard output is closed, but the command continues\n"
    assert ended.stderr == (None if together else said)
    assert set(fasticcl.evaluate(tmp_path / "runs/demo/run").rows) == {"before", "after", "best"}


def test_warnings_come_on_standard_error_when_the_output_is_no_longer_read(unread, tiny_shards):
    full = """
import errno, fasticcl.engine.run.checkpoint
def save(*_): raise OSError(errno.ENOSPC, "No space left on device")
fasticcl.engine.run.checkpoint.save_checkpoint = save"""
    arguments = ["train", "demo", "--data", tiny_shards, "--epochs", 2, "--batch-size", 20, *SETTINGS]
    ended = unread(*arguments, before=full)
    assert "last.pt: No space left on device. Free some space" in ended.stderr


def test_a_verb_that_looks_ends_by_the_signal_and_says_nothing(unread):
    ended = unread("presets")
    assert (ended.returncode, ended.stderr) == (-signal.SIGPIPE, "")


def test_a_verb_called_in_a_process_of_others_leaves_the_signal_as_it_was(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fasticcl", "presets"])
    before = signal.getsignal(signal.SIGPIPE)
    with pytest.raises(SystemExit):
        main()
    assert "iccl" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGPIPE) is before
