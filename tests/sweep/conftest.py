import sys

import pytest

from fasticcl.cli.main import main
from fasticcl.sweep import sweep
from tests.support.small_runs import train_tiny


@pytest.fixture(scope="session")
def run(tiny_shards, tmp_path_factory):
    """A tiny run without a holdout. Tests may add sweep folders to it."""
    return train_tiny(tiny_shards, tmp_path_factory.mktemp("swept"), {"rebalance.epochs": 2}).run


@pytest.fixture(scope="session")
def run_with_holdout(tiny_shards, tmp_path_factory):
    return train_tiny(tiny_shards, tmp_path_factory.mktemp("holdout"), {"data.holdout": 0.3}).run


@pytest.fixture
def trained_stages(monkeypatch):
    """The stages trained by sweeps, in order."""
    trained, train_jointly = [], sweep.train_jointly

    def recorded(stages, *others):
        train_jointly(stages, *others)
        trained.extend(stages)

    monkeypatch.setattr(sweep, "train_jointly", recorded)
    return trained


@pytest.fixture
def run_cli(monkeypatch):
    """A function that runs the command line in this process and returns its exit code."""

    def run_cli(*words):
        monkeypatch.setattr(sys, "argv", ["fasticcl", *map(str, words)])
        with pytest.raises(SystemExit) as exit:
            main()
        return exit.value.code

    return run_cli
