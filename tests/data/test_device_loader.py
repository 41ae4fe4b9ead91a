"""Batches of images in device memory, compared with the batches of the DALI loader."""

import shutil
from itertools import islice

import pytest
import torch

from fasticcl.config import Data
from fasticcl.data.batch import tensors_of
from fasticcl.data.device_loader import DeviceLoader
from fasticcl.data.loader import Loader
from fasticcl.data.plan import PHASES, Plan
from fasticcl.shards.reader import Shards
from tests.support.damaged_shards import flip_bit


def open_loader(folder, warnings, lambda_per="batch", mixing="mixup"):
    shards = Shards(folder, "train")
    settings = {"lambda_per": lambda_per, "mixing": mixing, "mixing_probability": 0.8}
    data = Data(dataset="demo", dir=folder, image_size=16, crop="pad", crop_padding=2, **settings)
    # Re-sampling starts within the compared batches.
    plan = Plan(shards.index, shards.counts, data, batch_size=24, seed=4, resample_epoch=2)
    return Loader(shards, plan, threads=2, warn=warnings.append, max_steps=2)


@pytest.mark.parametrize("lambda_per", ["batch", "sample"])
@pytest.mark.parametrize(
    ("phase", "mixing"),
    [*((phase, "mixup") for phase in PHASES), ("interpolative", "cutmix"), ("interpolative", "none")],
)
def test_batches_are_bit_identical_to_those_of_the_graph(tiny_shards, phase, lambda_per, mixing):
    expected = open_loader(tiny_shards, [], lambda_per, mixing).batches(phase, 1, 1)
    loader = DeviceLoader(open_loader(tiny_shards, [], lambda_per, mixing))
    for one, packed in zip(islice(expected, 4), loader.batches(phase, 1, 1), strict=False):
        other = loader.images.batch(packed.values)
        assert type(one) is type(other)
        assert all(torch.equal(value, tensors_of(other)[name]) for name, value in tensors_of(one).items())
        assert packed.images == one.images


def test_damaged_images_are_replaced_by_the_same_images(tiny_shards, tmp_path):
    folder = shutil.copytree(tiny_shards, tmp_path / "shards")
    damaged = [0, 1, 20, 40]
    flip_bit(folder, *damaged)
    warnings = []
    loader = DeviceLoader(open_loader(folder, warnings))
    expected = open_loader(folder, []).batches("interpolative")
    for one, packed in zip(islice(expected, 4), loader.batches("interpolative"), strict=False):
        assert loader.bad_samples.rows == damaged  # before the first batch
        other = loader.images.batch(packed.values)
        assert all(torch.equal(value, tensors_of(other)[name]) for name, value in tensors_of(one).items())
    assert len(warnings) == len(damaged)
