"""Shards of a column: which folders are accepted, and the message without them."""

import pytest

from fasticcl.errors import UserError
from fasticcl.reproduce.planning.shard_folder import ShardFolder, checksum_of
from fasticcl.resolve import configure
from tests.support.table_plans import CHECKSUM, write_manifest

CIFAR = configure("cifar100-lt", imbalance=50)


def find(*folders, config=CIFAR):
    return ShardFolder.find(config, [*folders])


@pytest.mark.parametrize("settings", [{"imbalance": 50}, {"long_tail": 50.0}])
@pytest.mark.parametrize("dataset", ["cifar100-lt", "folder"])
def test_ratio_of_either_conversion_is_accepted(tmp_path, dataset, settings):
    write_manifest(tmp_path / "b", dataset, **settings)
    assert find(tmp_path / "a", tmp_path / "b") == ShardFolder(tmp_path / "b", CHECKSUM[:12])


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ({"imbalance": 100}, "imbalance ratio 100, not 50"),
        ({"long_tail": 10.0, "dataset": "folder"}, "imbalance ratio 10, not 50"),
        ({}, "imbalance ratio 100, not 50"),  # of the class counts
        ({"imbalance": 50, "dataset": "cifar10-lt"}, "shards of cifar10-lt"),
        ({"imbalance": 50, "dataset": "folder", "classes": 10}, "10 classes, not 100"),
        ({"imbalance": 50, "splits": ("train",)}, "no test or val images to evaluate"),
    ],
)
def test_other_shards_are_named_in_the_message(tmp_path, manifest, reason):
    folder = write_manifest(tmp_path / "a", **manifest)
    with pytest.raises(UserError) as error:
        find(folder)
    assert f"({folder} has {reason})" in str(error.value)
    command = f"fasticcl convert cifar100-lt DOWNLOADS {folder} --imbalance 50"
    assert f"Create them with: {command} (`fasticcl datasets` describes DOWNLOADS)" in str(error.value)


def test_second_folder_is_used_if_the_first_has_another_ratio(tmp_path):
    folders = [write_manifest(tmp_path / name, imbalance=ratio) for name, ratio in (("a", 100), ("b", 50))]
    assert find(*folders).path == folders[1]


def test_class_counts_give_the_ratio_of_a_folder_that_was_long_tailed(tmp_path):
    write_manifest(tmp_path / "a", "folder")
    assert find(tmp_path / "a", config=configure("cifar100-lt")).path == tmp_path / "a"


def test_demo_does_not_need_shards(tmp_path):
    assert find(tmp_path, config=configure("demo")) == ShardFolder(tmp_path, "")


def test_damaged_manifest_is_named_and_has_no_checksum(tmp_path):
    (write_manifest(tmp_path / "a", imbalance=50) / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        find(tmp_path / "a")
    assert checksum_of(tmp_path / "a") == ""
