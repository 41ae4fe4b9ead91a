"""The images that a benchmark makes cost a decoder what photographs cost it."""

import io

import numpy as np
import pytest
from PIL import Image

from fasticcl.bench.synthetic_images import make_images, random_image, write_files, write_shards
from fasticcl.convert.layouts import folder as folder_layout
from fasticcl.shards.verify import verify


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)), dtype=np.float32)


def test_they_are_about_as_large_as_a_photograph_of_imagenet():
    sizes = [len(random_image(seed)) for seed in range(12)]
    assert 50_000 < np.mean(sizes) < 80_000
    assert pixels(random_image(0)).shape == (375, 500, 3)


@pytest.mark.parametrize("seed", range(4))
def test_they_have_structure_at_large_scale_and_noise_at_small(seed):
    image = pixels(random_image(seed))
    blocks = image[:360, :480].reshape(12, 30, 16, 30, 3).mean(axis=(1, 3))
    assert blocks.std() > 15  # averages over 30×30 pixels of noise alone would be all alike
    neighbours = np.diff(image, axis=1)
    assert np.median(np.abs(neighbours)) >= 1  # and smooth areas have none of this
    assert len(np.unique(image)) > 200


def test_the_same_seed_gives_the_same_image_and_another_another():
    assert random_image(3, 64, 48) == random_image(3, 64, 48)
    assert random_image(3, 64, 48) != random_image(4, 64, 48)


@pytest.mark.parametrize("png", [False, True])
def test_the_shards_are_sound(tmp_path, png):
    made = make_images(30, 5, 2, width=32, height=24, png=png)
    write_shards(made, tmp_path / "shards")
    assert verify(tmp_path / "shards", decode=True).problems == []
    assert made.mean_bytes == round(sum(map(len, made.contents)) / len(made.contents))


def test_the_files_are_a_dataset_that_convert_reads(tmp_path):
    made = make_images(30, 5, 2, width=32, height=24)
    write_files(made, tmp_path / "files")
    source = folder_layout.read(tmp_path / "files")
    assert len(source.splits["train"]) == len(made.contents) >= 30
    assert len(source.splits["val"]) == len(source.classes) == 5
