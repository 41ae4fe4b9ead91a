"""Shards and a run that several test modules read, created once per session, and the command line."""

import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fasticcl
from fasticcl.cli.main import main
from fasticcl.convert.conversion import convert
from fasticcl.convert.layouts import digits
from fasticcl.convert.source import Item, Source
from tests.support.images import photographs
from tests.support.small_runs import TINY_COUNTS

# The networks of the tests are too small to gain from a second thread.
torch.set_num_threads(1)
# A shell that starts the tests in the background makes them and their children ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def digit_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo data."""
    folder = tmp_path_factory.mktemp("digits")
    convert(digits.read(), folder, shard_size=100)
    return folder


@pytest.fixture(scope="session")
def photo_source() -> Source:
    """Photographs of about 500×375 pixels: 12, 6 and 3 training images, and 5 validation images."""
    labels = [0] * 12 + [1] * 6 + [2] * 3
    contents = photographs(len(labels) + 5, seed=1)
    train = [
        Item(content, label, f"photo{i}.jpg")
        for i, (content, label) in enumerate(zip(contents, labels, strict=False))
    ]
    val = [Item(content, i % 3, f"val{i}.jpg") for i, content in enumerate(contents[len(labels) :])]
    return Source("folder", ["a", "b", "c"], {"train": train, "val": val})


@pytest.fixture(scope="session")
def photo_shards(photo_source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    convert(photo_source, folder, shard_size=8)
    return folder


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Part of the demo data: 10 classes of 14 to 1 training images, 60 in all, and 30 test images."""
    source = digits.read()
    most = {"train": TINY_COUNTS, "test": [3] * 10}
    splits = {}
    for split, items in source.splits.items():
        of_class = [[item for item in items if item.label == label] for label in range(10)]
        splits[split] = [item for k, each in enumerate(of_class) for item in each[: most[split][k]]]
    folder = tmp_path_factory.mktemp("tiny")
    convert(replace(source, splits=splits), folder, shard_size=25)
    return folder


@pytest.fixture(scope="session")
def digit_run(digit_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the demo data that is evaluated on centre crops of slightly larger images."""
    settings = {"method.encoder": "resnet8", "rebalance.epochs": 1, "data.eval_resize": 20}
    report = fasticcl.train(
        "demo",
        data=digit_shards,
        project=tmp_path_factory.mktemp("runs"),
        epochs=6,
        device="cpu",
        set=settings,
    )
    return report.run


@pytest.fixture
def fasticcl_command(monkeypatch, capsys, tmp_path):
    """Run the command line in an empty folder and return exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fasticcl", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return call
