"""Small trainings of the demo that several tests start, and the graphs of compiled steps."""

from functools import partial

import pytest
import torch

from tests.support.small_runs import train_demo, train_tiny


@pytest.fixture
def train(digit_shards, tmp_path):
    """Train a small run of the demo. Keyword arguments are those of `train_demo`."""
    return partial(train_demo, digit_shards, tmp_path)


@pytest.fixture
def train_few(tiny_shards, tmp_path):
    """Train a few steps with `train_tiny`. Keyword arguments are its own."""
    return partial(train_tiny, tiny_shards, tmp_path)


@pytest.fixture(scope="session")
def undisturbed(tiny_shards, tmp_path_factory):
    """An uninterrupted run of `train_tiny`, which tests must not modify."""
    return train_tiny(tiny_shards, tmp_path_factory.mktemp("undisturbed")).run


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that Dynamo passes to the backend, which runs them uncompiled under their guards."""
    passed, compile_ = [], torch.compile

    def keep(graph, _):
        passed.append(graph)
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", lambda module, **_: compile_(module, backend=keep))
    yield passed
    torch.compiler.reset()
