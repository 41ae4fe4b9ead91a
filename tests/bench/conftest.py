"""A tiny benchmark of everything, and the command line in this process."""

import sys

import pytest

import fasticcl
from fasticcl.cli.main import main

# Sizes at which a step takes milliseconds.
TINY = {
    "images": 20,
    "batch_size": 4,
    "image_size": 16,
    "encoder": "resnet8",
    "device": "cpu",
    "workers": 1,
    "seconds": 0.01,
    "repeats": 2,
}


@pytest.fixture(scope="session")
def tiny():
    """Options of a benchmark that takes about a second."""
    return TINY


@pytest.fixture(scope="session")
def full_result():
    """Result of the benchmark `all` on synthetic images."""
    return fasticcl.benchmark("all", **TINY)


@pytest.fixture
def fasticcl_command(monkeypatch, capsys, tmp_path):
    """Run the command line in an empty folder and return exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fasticcl.system.allocator.keep_freed_memory", lambda: True)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fasticcl", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return call
