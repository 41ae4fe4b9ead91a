import json
import os

import numpy as np
import pytest

import fasticcl
from fasticcl.convert.layouts import folder
from fasticcl.errors import UserError
from fasticcl.shards.reader import Shards
from tests.support.files import write_files
from tests.support.images import encode, jpegs, noise

IMAGE = encode(noise(np.random.default_rng(0)))


def lay_out(root, names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(IMAGE)
    return root


def test_classes_are_the_sorted_folders_of_train(tmp_path):
    names = [
        "train/b/2.jpg",
        "train/b/1.JPEG",
        "train/a/x.png",
        "train/a/deeper/y.webp",
        "val/b/3.jpg",
        "train/a/notes.txt",
    ]
    source = folder.read(lay_out(tmp_path, names))
    assert source.classes == ["a", "b"]
    assert [(item.name, item.label) for item in source.splits["train"]] == [
        ("train/a/deeper/y.webp", 0),
        ("train/a/x.png", 0),
        ("train/b/1.JPEG", 1),
        ("train/b/2.jpg", 1),
    ]
    assert [(item.name, item.label) for item in source.splits["val"]] == [("val/b/3.jpg", 1)]


def test_val_and_test_may_both_exist(tmp_path):
    source = folder.read(lay_out(tmp_path, ["train/a/1.jpg", "train/b/1.jpg", "val/a/2.jpg", "test/b/3.jpg"]))
    assert sorted(source.splits) == ["test", "train", "val"]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["val/a/1.jpg"], "has no folder train/"),
        (["train/a/1.jpg"], "has neither val/ nor test/"),
        (["train/a/1.txt", "val/a/1.jpg"], "There are no images in .*train"),
        (["train/a/1.jpg", "val/a/1.txt"], "There are no images in .*val"),
        (["train/a/1.jpg", "train/b/1.txt", "val/a/1.jpg"], "The class 'b' has no images"),
        (["train/a/1.jpg", "val/a/1.jpg", "val/c/1.jpg"], "has the class 'c', which train/ does not have"),
    ],
)
def test_incomplete_folders_give_a_clear_error(tmp_path, names, sentence):
    with pytest.raises(UserError, match=sentence):
        folder.read(lay_out(tmp_path, names))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"Cannot read the folder .*nowhere: No such file"):
        folder.read(tmp_path / "nowhere")


def test_a_folder_becomes_shards_with_the_bytes_of_its_images(tmp_path):
    names = [
        "train/a/2.jpg",
        "train/a/10.jpg",
        "train/b/1.jpg",
        "train/b/x/1.jpeg",
        "val/b/1.jpg",
        "test/a/1.jpg",
    ]
    contents = dict(zip(names, jpegs(len(names)), strict=True))
    manifest = fasticcl.convert("folder", write_files(tmp_path / "src", contents), tmp_path / "shards")
    assert (manifest.dataset, manifest.classes) == ("folder", ["a", "b"])
    stored = {
        split: [
            (int(row["label"]), image.tobytes())
            for row, image in zip(shards.index, shards.read(np.arange(len(shards))), strict=True)
        ]
        for split in manifest.splits
        for shards in [Shards(tmp_path / "shards", split)]
    }
    assert stored == {
        "train": [
            (label, contents[name])
            for label, name in (
                (0, "train/a/10.jpg"),
                (0, "train/a/2.jpg"),
                (1, "train/b/1.jpg"),
                (1, "train/b/x/1.jpeg"),
            )
        ],
        "val": [(1, contents["val/b/1.jpg"])],
        "test": [(0, contents["test/a/1.jpg"])],
    }


@pytest.mark.parametrize("top", ["", "train/"], ids=["classes in the folder", "classes in train"])
def test_a_fraction_of_every_class_becomes_val_if_there_is_no_split(tmp_path, top):
    names = [f"{top}{name}/{i}.jpg" for name, count in (("a", 10), ("b", 1), ("c", 5)) for i in range(count)]
    source = folder.read(lay_out(tmp_path, names), val_fraction=0.2)
    assert source.classes == ["a", "b", "c"]
    assert np.bincount(source.splits["train"].labels).tolist() == [8, 1, 4]
    assert np.bincount(source.splits["val"].labels).tolist() == [2, 0, 1]
    assert sorted(item.name for items in source.splits.values() for item in items) == sorted(names)


@pytest.mark.parametrize("split", ["val", "test"])
def test_an_existing_split_excludes_val_fraction(tmp_path, split):
    lay_out(tmp_path, ["train/a/1.jpg", f"{split}/a/1.jpg"])
    with pytest.raises(UserError, match=rf"already has {split}/ for evaluation. Leave out --val-fraction"):
        folder.read(tmp_path, val_fraction=0.1)


def test_hidden_folders_are_not_classes(tmp_path):
    names = ["train/.thumbnails/1.jpg", "train/a/1.jpg", "val/.thumbnails/1.jpg", "val/a/1.jpg"]
    source = folder.read(lay_out(tmp_path, names))
    assert source.classes == ["a"]
    assert [item.name for item in source.splits["val"]] == ["val/a/1.jpg"]


def test_a_class_may_be_a_link(tmp_path):
    lay_out(tmp_path, ["elsewhere/1.jpg", "src/train/b/2.jpg", "src/val/b/3.jpg"])
    (tmp_path / "src/train/a").symlink_to(tmp_path / "elsewhere")
    source = folder.read(tmp_path / "src")
    assert [(item.name, item.label) for item in source.splits["train"]] == [
        ("train/a/1.jpg", 0),
        ("train/b/2.jpg", 1),
    ]
    assert source.splits["train"][0].read() == IMAGE


def test_names_that_are_not_utf8_are_stored_and_listed(tmp_path):
    lay_out(tmp_path, ["train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg"])
    for name, content in ((b"sound\xff.jpg", IMAGE), (b"broken\xff.jpg", IMAGE[:-2])):
        with open(os.path.join(os.fsencode(tmp_path / "train" / "b"), name), "wb") as file:
            file.write(content)
    manifest = fasticcl.convert("folder", tmp_path, tmp_path / "shards", max_corrupt=1)
    assert manifest.splits["train"].class_counts == [1, 2]
    (line,) = (tmp_path / "shards" / "quarantine.jsonl").read_text().splitlines()
    assert os.fsencode(json.loads(line)["image"]) == b"train/b/broken\xff.jpg"
