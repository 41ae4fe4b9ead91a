"""Intact and damaged shards."""

import shutil

import numpy as np
import pytest

from fasticcl.doctor.stored_shards import read_shards


def test_intact_shards_are_sampled_and_measured(digit_shards):
    stored = read_shards(digit_shards)
    assert (stored.problem, stored.dataset) == ("", "demo")
    assert (stored.images, stored.shards) == (392 + 359, 4 + 4)
    assert stored.sampled == 400
    index = np.load(digit_shards / "train" / "index.npy")
    assert (stored.read_speed.images, stored.read_speed.bytes) == (392, index["size"].sum())


@pytest.fixture
def shards_copy(photo_shards, tmp_path):
    return shutil.copytree(photo_shards, tmp_path / "shards")


def test_changed_image_is_named(shards_copy):
    index = np.load(shards_copy / "val" / "index.npy")
    path = shards_copy / "val" / "shard-000000.tar"
    content = bytearray(path.read_bytes())
    content[int(index["offset"][0]) + 100] ^= 1
    path.write_bytes(content)
    stored = read_shards(shards_copy)
    assert stored.problem.startswith("changed since the conversion: val/shard-000000.tar:")
    assert stored.read_speed is None


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("manifest.json", b"{}", "manifest.json is damaged"),
        ("train/index.npy", b"", "index.npy is missing or damaged"),
        ("train/shard-000001.tar", b"short", "shard-000001.tar is missing or was changed"),
    ],
)
def test_file_that_does_not_match_the_manifest_is_named(shards_copy, name, content, problem):
    (shards_copy / name).write_bytes(content)
    assert problem in read_shards(shards_copy).problem


def test_folder_without_shards_is_named(tmp_path):
    folder = tmp_path / "nowhere"
    assert read_shards(folder).problem == f"There are no shards in {folder}."
