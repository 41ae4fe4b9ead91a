"""The opened shards of a run: checks against the configuration, evaluated split, holdout and cache."""

import re
from dataclasses import replace

import numpy as np
import pytest

from fasticcl.convert.conversion import convert
from fasticcl.convert.source import Item, Source
from fasticcl.engine.dataset import open_dataset
from fasticcl.errors import UserError
from fasticcl.resolve import resolve
from tests.support.images import encode, noise
from tests.support.small_runs import IMAGES, TINY_COUNTS

ITEMS = [Item(encode(noise(np.random.default_rng(i)), "PNG"), i % 2, f"{i}.png") for i in range(6)]


def converted(folder, classes=("a", "b"), **splits):
    labels = range(len(classes))
    splits = {split: [item for item in items if item.label in labels] for split, items in splits.items()}
    convert(Source("folder", [*classes], splits), folder)
    return folder


def configuration(folder, *assignments, dataset="folder", **data):
    return resolve(dataset, options={"data": {"dir": folder, **data}}, assignments=assignments)


@pytest.mark.parametrize("splits", [("train", "val"), ("train", "test"), ("train", "val", "test")])
def test_evaluated_split_is_test_if_there_is_one(tmp_path, splits):
    folder = converted(tmp_path, **dict.fromkeys(splits, ITEMS))
    assert open_dataset(configuration(folder)).evaluated.split == splits[-1]


def test_requested_split_is_evaluated(tmp_path):
    folder = converted(tmp_path, train=ITEMS, val=ITEMS[:2], test=ITEMS)
    dataset = open_dataset(configuration(folder, eval_split="val"))
    assert (dataset.evaluated.split, len(dataset.evaluated)) == ("val", 2)


def test_shards_without_an_evaluated_split_are_rejected(tmp_path):
    folder = converted(tmp_path, train=ITEMS)
    with pytest.raises(UserError) as raised:
        open_dataset(configuration(folder))
    assert str(raised.value) == (
        f"{folder} has neither a test nor a val split to evaluate. "
        "Convert the images again with val images, for example with --val-fraction 0.1."
    )


def test_a_single_class_is_rejected(tmp_path):
    folder = converted(tmp_path, ["a"], train=ITEMS, val=ITEMS)
    with pytest.raises(UserError, match=r"has only one class, 'a'\. A classifier needs at least two"):
        open_dataset(configuration(folder))


def test_shards_of_another_dataset_are_rejected_unless_converted_from_a_folder(tiny_shards, tmp_path):
    message = f"{tiny_shards} contains shards of demo, not of inat2018. Pass another --data."
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        open_dataset(configuration(tiny_shards, dataset="inat2018"))
    folder = converted(tmp_path, train=ITEMS, val=ITEMS)
    assert len(open_dataset(configuration(folder, dataset="inat2018")).train) == len(ITEMS)


def test_another_imbalance_ratio_is_rejected(tmp_path):
    source = Source("cifar10-lt", ["a", "b"], {"train": ITEMS, "test": ITEMS})
    convert(replace(source, settings={"imbalance": 50}), tmp_path)
    with pytest.raises(UserError, match=r"have imbalance ratio 50\. Use --imbalance 50, or convert again"):
        open_dataset(configuration(tmp_path, dataset="cifar10-lt", imbalance=100))
    assert open_dataset(configuration(tmp_path, dataset="cifar10-lt", imbalance=50)).num_classes == 2


def test_error_for_missing_shards_gives_the_convert_command(tmp_path):
    folder = tmp_path / "my shards"
    for options, command in (
        ({"dataset": "inat2018"}, f"fasticcl convert inat2018 SRC '{folder}' "),
        (
            {"dataset": "cifar100-lt", "imbalance": 50},
            f"fasticcl convert cifar100-lt SRC '{folder}' --imbalance 50 ",
        ),
    ):
        with pytest.raises(UserError) as raised:
            open_dataset(configuration(folder, **options))
        assert f"no shards of {options['dataset']} in {folder}. Create them with: {command}" in str(
            raised.value
        )


def test_shards_of_the_demo_are_created(tmp_path):
    dataset = open_dataset(configuration(tmp_path / "demo", dataset="demo"))
    assert (len(dataset.train), dataset.num_classes, dataset.evaluated.split) == (IMAGES, 10, "test")
    assert (tmp_path / "demo/manifest.json").exists()


def test_holdout_rows_are_drawn_from_the_training_images(tiny_shards):
    dataset = open_dataset(configuration(tiny_shards, "data.holdout=2", dataset="demo"))
    labels = dataset.train.index["label"][dataset.holdout_rows]
    expected = [min(2, count // 2) for count in TINY_COUNTS]
    assert np.bincount(labels, minlength=10).tolist() == expected


@pytest.mark.parametrize("location", ["off", "host"])
def test_evaluation_cache_is_created_once_if_images_are_cached(tiny_shards, location):
    dataset = open_dataset(configuration(tiny_shards, f"data.cache={location}", dataset="demo"))
    cache = dataset.evaluation_cache
    assert (cache is None) == (location == "off")
    assert dataset.evaluation_cache is cache


def test_an_existing_run_continues_without_a_cache_that_does_not_fit(tiny_shards, monkeypatch):
    monkeypatch.setattr("fasticcl.data.cache.free_memory", lambda *_: 0)
    config = configuration(tiny_shards, "data.cache=host", dataset="demo")
    with pytest.raises(UserError, match=r"Use --cache off"):
        open_dataset(config)
    assert open_dataset(config, require_cache=False).cache_location == "off"
