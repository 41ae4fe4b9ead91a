"""The report of a run and of a comparison, as text."""

import pytest

import fasticcl
from tests.support.small_runs import start_tiny


@pytest.fixture(scope="session")
def reported(tiny_shards, tmp_path_factory):
    """A run with its report."""
    run = start_tiny(tiny_shards, tmp_path_factory.mktemp("reported"), epochs=8).run
    fasticcl.report(run)
    return run


@pytest.fixture(scope="session")
def report(reported):
    return (reported / "report.html").read_text()


@pytest.fixture(scope="session")
def comparison(reported, tiny_shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    other = start_tiny(tiny_shards, folder, epochs=8, seed=1, name="a-run-with-a-longer-name").run
    return fasticcl.report(reported, other, output=folder / "both").read_text()
