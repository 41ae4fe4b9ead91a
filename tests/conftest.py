"""The command line in this process, and shards and a run that are created once per session.

Fixtures import the packages of the conversion, so that tests/gpu is collected on a machine without them.
"""

import gc
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fasticcl  # before torch, because it sets the wait policy of OpenMP threads

# isort: split
import pytest
import torch

from fasticcl.cli.main import main

# The test networks are too small to benefit from a second thread.
torch.set_num_threads(1)
# Processes started in the background by a shell ignore SIGINT, and so would their children.
signal.signal(signal.SIGINT, signal.default_int_handler)


def require(*packages: str) -> None:
    """Skip the test if a package is not installed."""
    for package in packages:
        pytest.importorskip(package)


@pytest.fixture(scope="module", autouse=True)
def fast_garbage_collections() -> None:
    """Exclude all existing objects from garbage collections, of which `Loader` starts one in every run."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # extension modules complain at exit about objects that are never collected


@pytest.fixture(scope="session")
def convert() -> Callable[..., Any]:
    """The conversion of a source into shards."""
    require("isal", "simplejpeg")
    from fasticcl.convert.conversion import convert

    return convert


@pytest.fixture(scope="session")
def digits(convert: Callable[..., Any]) -> Any:  # noqa: ARG001  skips without the packages of a conversion
    """The source of the demo data."""
    require("sklearn")
    from fasticcl.convert.layouts import digits

    return digits.read()


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable:
    """A function that runs the command line in this process and returns exit code, output and errors."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fasticcl", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
        output = capsys.readouterr()
        return exit.value.code, output.out, output.err

    return call


@pytest.fixture(scope="session")
def digit_shards(convert: Callable, digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo data."""
    folder = tmp_path_factory.mktemp("digits")
    convert(digits, folder, shard_size=100)
    return folder


@pytest.fixture(scope="session")
def photo_source() -> Any:
    """Photographs of about 500×375 pixels: 12, 6 and 3 training images, and 5 validation images."""
    require("isal", "simplejpeg", "sklearn")
    from fasticcl.convert.source import Item, Source
    from tests.support.images import photographs

    labels = [0] * 12 + [1] * 6 + [2] * 3
    contents = photographs(len(labels) + 5, seed=1)
    train = [
        Item(content, label, f"photo{i}.jpg")
        for i, (content, label) in enumerate(zip(contents, labels, strict=False))
    ]
    val = [Item(content, i % 3, f"val{i}.jpg") for i, content in enumerate(contents[len(labels) :])]
    return Source("folder", ["a", "b", "c"], {"train": train, "val": val})


@pytest.fixture(scope="session")
def photo_shards(convert: Callable, photo_source: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    convert(photo_source, folder, shard_size=8)
    return folder


@pytest.fixture(scope="session")
def tiny_shards(convert: Callable, digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Part of the demo data: 10 classes of 14 to 1 training images, 60 in all, and 30 test images."""
    from tests.support.small_runs import TINY_COUNTS

    counts = {"train": TINY_COUNTS, "test": [3] * 10}
    splits = {}
    for split, items in digits.splits.items():
        of_class = [[item for item in items if item.label == label] for label in range(10)]
        splits[split] = [item for k, images in enumerate(of_class) for item in images[: counts[split][k]]]
    folder = tmp_path_factory.mktemp("tiny")
    convert(replace(digits, splits=splits), folder, shard_size=25)
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
        report=False,
        set=settings,
    )
    return report.run


# Files that take longest. The others follow in the order of their names.
LONG_FILES = (
    "engine/test_training_ranks.py",
    "engine/test_resume.py",
    "system/test_launch.py",
    "engine/test_trainer.py",
    "engine/test_faults.py",
    "engine/test_methods.py",
    "engine/test_killed_runs.py",
    "engine/test_compile_trial.py",
    "benchmarks/test_first_light.py",
    "benchmarks/test_peers.py",
    "convert/layouts/test_inat2018.py",
    "test_readme.py",
    "benchmarks/test_gpu_script.py",
    "convert/test_kill.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, so that no worker waits for another one at the end."""
    tests = Path(__file__).parent
    order = {tests / name: place for place, name in enumerate(LONG_FILES)}
    assert all(path.exists() for path in order)
    items.sort(key=lambda item: order.get(item.path, len(order)))
