"""Published numbers of images."""

import json

import pytest

from fasticcl.bench.dataset_sizes import DatasetSizes, num_classes
from fasticcl.resolve import configure


@pytest.mark.parametrize(
    ("dataset", "imbalance", "images"),  # of the long-tailed subsets of LDAM-DRW
    [
        ("cifar100-lt", 100, 10_847),
        ("cifar100-lt", 50, 12_608),
        ("cifar100-lt", 10, 19_573),
        ("cifar10-lt", 100, 12_406),
        ("cifar10-lt", 50, 13_996),
        ("cifar10-lt", 10, 20_431),
    ],
)
def test_published_sizes_of_cifar_lt(dataset, imbalance, images):
    sizes = DatasetSizes.published(configure(dataset, imbalance=imbalance))
    assert (sizes.train, sizes.evaluated, sizes.from_shards) == (images, 10_000, False)
    assert sizes.counts.max() == imbalance * sizes.counts.min()
    assert len(sizes.counts) == num_classes(dataset)


def test_published_sizes_of_the_demo_are_those_of_its_shards(digit_shards):
    manifest = json.loads((digit_shards / "manifest.json").read_text())
    sizes = DatasetSizes.published(configure("demo"))
    assert sizes.counts.tolist() == manifest["splits"]["train"]["class_counts"]
    assert sizes.evaluated == sum(manifest["splits"]["test"]["class_counts"])


def test_sizes_of_a_folder_are_unknown_without_its_shards():
    assert DatasetSizes.published(configure("folder")) is None
    assert DatasetSizes.published(configure("imagenet-lt")).train == 115_846
