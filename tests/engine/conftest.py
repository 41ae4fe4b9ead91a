"""Small trainings of the demo that several tests start."""

from functools import partial

import pytest

from tests.support.small_runs import train_demo, train_tiny


@pytest.fixture
def train(digit_shards, tmp_path):
    """Train a small run of the demo. Keyword arguments are those of `train_demo`."""
    return partial(train_demo, digit_shards, tmp_path)


@pytest.fixture
def train_few(tiny_shards, tmp_path):
    """Train a few steps with `train_tiny`. Keyword arguments are its own."""
    return partial(train_tiny, tiny_shards, tmp_path)
