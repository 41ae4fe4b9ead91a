"""Synthetic images have the size and detail of photographs and form a valid dataset."""

import io

import numpy as np
import pytest
from PIL import Image

from fasticcl.bench.synthetic_images import generate_images, random_image, write_files, write_shards
from fasticcl.convert.layouts import folder as folder_layout
from fasticcl.shards.verify import verify


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)), dtype=np.float32)


def test_images_are_about_as_large_as_those_of_imagenet():
    sizes = [len(random_image(seed)) for seed in range(12)]
    assert 50_000 < np.mean(sizes) < 80_000
    assert pixels(random_image(0)).shape == (375, 500, 3)


@pytest.mark.parametrize("seed", range(4))
def test_images_have_large_scale_structure_and_pixel_noise(seed):
    image = pixels(random_image(seed))
    blocks = image[:360, :480].reshape(12, 30, 16, 30, 3).mean(axis=(1, 3))
    assert blocks.std() > 15  # pure noise averages out over 30×30 pixels
    neighbours = np.diff(image, axis=1)
    assert np.median(np.abs(neighbours)) >= 1  # smooth images have no such differences
    assert len(np.unique(image)) > 200


def test_the_image_depends_on_the_seed_alone():
    assert random_image(3, 64, 48) == random_image(3, 64, 48)
    assert random_image(3, 64, 48) != random_image(4, 64, 48)


@pytest.mark.parametrize("png", [False, True])
def test_the_shards_pass_verification(tmp_path, png):
    images = generate_images(30, 5, 2, width=32, height=24, png=png)
    write_shards(images, tmp_path / "shards")
    assert verify(tmp_path / "shards", decode=True).problems == []
    assert images.mean_bytes == round(sum(map(len, images.contents)) / len(images.contents))


def test_the_files_can_be_converted(tmp_path):
    images = generate_images(30, 5, 2, width=32, height=24)
    write_files(images, tmp_path / "files")
    source = folder_layout.read(tmp_path / "files")
    assert len(source.splits["train"]) == len(images.contents) >= 30
    assert len(source.splits["val"]) == len(source.classes) == 5
