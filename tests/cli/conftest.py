"""The command line in an empty folder."""

import pytest


@pytest.fixture
def fasticcl_command(run_cli, monkeypatch, tmp_path):
    """The fixture `run_cli` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return run_cli
