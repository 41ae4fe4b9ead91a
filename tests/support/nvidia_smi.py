"""A simulated ``nvidia-smi``."""

import subprocess

import pytest


def simulate_nvidia_smi(monkeypatch: pytest.MonkeyPatch, output: str | Exception) -> None:
    """Make ``nvidia-smi`` print a text or fail with an exception."""

    def run(command, **_):
        assert command[0] == "nvidia-smi"
        if isinstance(output, Exception):
            raise output
        return subprocess.CompletedProcess(command, 0, stdout=output)

    monkeypatch.setattr(subprocess, "run", run)
