"""The manifest, the list of unreadable images and the files that remain after a conversion."""

import json
import os

import numpy as np
import pytest

import fasticcl
from fasticcl.convert.conversion import convert
from fasticcl.convert.source import Item, Source
from fasticcl.errors import UserError
from fasticcl.shards.reader import Shards
from fasticcl.shards.shrink import Shrink
from tests.support.files import file_contents
from tests.support.image_sources import jpeg_source
from tests.support.images import encode, noise

IMAGE = noise(np.random.default_rng(0), 48, 64)
JPEG = encode(IMAGE, quality=90)


def test_the_manifest_counts_reencoded_images_by_reason(tmp_path):
    kinds = [JPEG, encode(IMAGE.convert("CMYK"), quality=90), encode(IMAGE, "GIF")]
    items = [Item(kinds[i % 3], i % 2, f"{i}.jpg") for i in range(12)]
    manifest = convert(
        Source("folder", ["a", "b"], {"train": items, "val": items[:5]}), tmp_path, shard_size=4
    )
    assert manifest.reencoded == {"JPEG of mode CMYK": 6, "GIF format": 5}


def test_unreadable_images_stop_the_conversion_after_all_are_listed(tmp_path):
    with pytest.raises(UserError, match=r"2 images cannot be read, for example 5\.jpg .* --max-corrupt 2"):
        convert(jpeg_source(broken=(5, 17)), tmp_path, shard_size=5)
    listed = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert [entry["image"] for entry in listed] == ["5.jpg", "17.jpg"]
    assert {entry["reason"] for entry in listed} == {"not an image"}
    assert not (tmp_path / "manifest.json").exists()


def test_the_suggested_max_corrupt_continues_and_finishes(tmp_path):
    with pytest.raises(UserError):
        convert(jpeg_source(broken=(5, 17)), tmp_path / "one", shard_size=5)
    convert(jpeg_source(broken=(5, 17)), tmp_path / "one", shard_size=5, max_corrupt=2)
    convert(jpeg_source(broken=(5, 17)), tmp_path / "two", shard_size=5, max_corrupt=9)
    assert file_contents(tmp_path / "one") == file_contents(tmp_path / "two")


def test_accepted_unreadable_images_are_omitted(tmp_path):
    manifest = convert(jpeg_source(broken=(5, 17)), tmp_path, shard_size=5, max_corrupt=2)
    assert manifest.quarantined == 2
    assert manifest.splits["train"].class_counts == [10, 8]
    assert len(Shards(tmp_path, "train")) == 18


def test_shard_with_only_unreadable_images_is_omitted(tmp_path):
    manifest = convert(jpeg_source(broken=(5, 6, 7, 8, 9)), tmp_path, shard_size=5, max_corrupt=5)
    assert [shard.name for shard in manifest.splits["train"].shards] == [
        "shard-000000.tar",
        "shard-000002.tar",
        "shard-000003.tar",
    ]
    assert not fasticcl.verify(tmp_path, decode=True).problems


def test_a_class_without_readable_training_images_is_an_error(tmp_path):
    items = [Item(JPEG, 0, "a.jpg"), Item(b"broken", 1, "b.jpg")]
    with pytest.raises(UserError, match="No training image of the class 'two'"):
        convert(Source("folder", ["one", "two"], {"train": items, "val": items[:1]}), tmp_path, max_corrupt=1)


def test_a_split_without_a_readable_image_is_an_error(tmp_path):
    items = [Item(JPEG, 0, "a.jpg"), Item(JPEG, 1, "b.jpg")]
    val = [Item(b"broken", 0, "c.jpg")]
    with pytest.raises(UserError, match="No image of val/ can be read"):
        convert(Source("folder", ["a", "b"], {"train": items, "val": val}), tmp_path, max_corrupt=1)


def test_names_that_are_not_utf8_can_be_quarantined_and_stored(tmp_path):
    odd = os.fsdecode(b"\xff\xfe caf\xc3\xa9.jpg")
    items = [Item(JPEG, 0, odd), Item(b"broken", 0, odd)]
    convert(Source("folder", ["a"], {"train": items, "val": items[:1]}), tmp_path, max_corrupt=1)
    assert json.loads((tmp_path / "quarantine.jsonl").read_bytes())["image"].endswith("café.jpg")
    assert not fasticcl.verify(tmp_path).problems


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"shard_size": 3}, {"shard_size": 50}),
        ({"shard_size": 50}, {"shard_size": 3}),
        ({"shard_size": 3, "shrink": Shrink("short", 24, 90)}, {"shard_size": 3}),
    ],
    ids=["larger shards", "smaller shards", "not shrunk"],
)
def test_files_of_an_unfinished_conversion_with_other_settings_are_removed(tmp_path, first, second):
    with pytest.raises(UserError, match="cannot be read"):
        convert(jpeg_source(broken=(19,)), tmp_path / "shards", **first)
    convert(jpeg_source(), tmp_path / "shards", **second)
    convert(jpeg_source(), tmp_path / "fresh", **second)
    assert file_contents(tmp_path / "shards") == file_contents(tmp_path / "fresh")


def test_files_of_an_unfinished_conversion_with_another_split_are_removed(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        convert(jpeg_source(broken=(19,)), tmp_path / "shards", shard_size=3)
    convert(jpeg_source(splits=("train", "test")), tmp_path / "shards", shard_size=3)
    convert(jpeg_source(splits=("train", "test")), tmp_path / "fresh", shard_size=3)
    assert file_contents(tmp_path / "shards") == file_contents(tmp_path / "fresh")
    assert not fasticcl.verify(tmp_path / "shards").problems
