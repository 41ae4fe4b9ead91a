"""Shards so small that a run takes a third of a second."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import TINY_COUNTS

from fasticcl.data.convert import convert
from fasticcl.data.sources import digits


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 of the demonstration data's training images, ten classes of 14 to 1, and 30 to evaluate."""
    source = digits.read()
    most = {"train": TINY_COUNTS, "test": [3] * 10}
    splits = {}
    for split, items in source.splits.items():
        of_class = [[item for item in items if item.label == label] for label in range(10)]
        splits[split] = [item for k, each in enumerate(of_class) for item in each[: most[split][k]]]
    folder = tmp_path_factory.mktemp("tiny")
    convert(replace(source, splits=splits), folder, shard_size=25)
    return folder
