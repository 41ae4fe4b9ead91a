import numpy as np
import pytest
from pictures import encode, noise

from fasticcl.data.sources import folder
from fasticcl.errors import UserError

PICTURE = encode(noise(np.random.default_rng(0)))


def lay_out(root, names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PICTURE)
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


def test_val_and_test_may_both_be_there(tmp_path):
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
def test_incomplete_folders_are_one_sentence(tmp_path, names, sentence):
    with pytest.raises(UserError, match=sentence):
        folder.read(lay_out(tmp_path, names))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"Cannot read the folder .*nowhere: No such file"):
        folder.read(tmp_path / "nowhere")
