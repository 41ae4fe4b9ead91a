"""A small trained run, shared by the tests of export."""

import shutil

import pytest

from tests.support.trained_runs import train_small


@pytest.fixture(scope="session")
def small_run(digit_shards, tmp_path_factory):
    """Folder of a small run, read-only."""
    return train_small(digit_shards, tmp_path_factory.mktemp("trained"))


@pytest.fixture
def run(small_run, tmp_path):
    """Folder of a copy of the small run that a test may modify."""
    return shutil.copytree(small_run, tmp_path / "run")
