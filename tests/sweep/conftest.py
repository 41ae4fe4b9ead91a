"""Tiny runs to sweep, with and without a holdout."""

import pytest

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
    """The stages that sweeps train, in order."""
    trained, train_jointly = [], sweep.train_jointly

    def recorded(stages, *others):
        train_jointly(stages, *others)
        trained.extend(stages)

    monkeypatch.setattr(sweep, "train_jointly", recorded)
    return trained
