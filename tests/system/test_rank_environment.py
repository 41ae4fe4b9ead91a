"""Environment variables of a rank, and their defaults for a single process."""

import pytest

from fasticcl.system import rank_environment

VARIABLES = {
    "RANK": ("rank", 0),
    "LOCAL_RANK": ("local_rank", 0),
    "WORLD_SIZE": ("world_size", 1),
    "LOCAL_WORLD_SIZE": ("local_world_size", 1),
    "TORCHELASTIC_RESTART_COUNT": ("restart_count", 0),
}


@pytest.mark.parametrize("variable", VARIABLES)
def test_variable_is_read_and_has_a_default(monkeypatch, variable):
    name, default = VARIABLES[variable]
    read = getattr(rank_environment, name)
    monkeypatch.delenv(variable, raising=False)
    assert read() == default
    monkeypatch.setenv(variable, "3")
    assert read() == 3


def test_process_with_the_variable_rank_is_a_launched_rank(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert not rank_environment.is_launched_rank()
    monkeypatch.setenv("RANK", "0")
    assert rank_environment.is_launched_rank()
