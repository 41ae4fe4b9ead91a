"""CIFAR from image files with the names in the official archive."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

import fasticcl
from fasticcl.convert.layouts import cifar_lt
from fasticcl.errors import UserError
from fasticcl.shards.published_subset import CIFAR
from fasticcl.shards.reader import Shards
from tests.support.cifar_folders import TEST, TRAIN, png, small_cifar
from tests.support.files import write_files
from tests.support.replicas import cifar


@pytest.fixture
def files(monkeypatch):
    """The files of a small CIFAR-10 by path."""
    return small_cifar(monkeypatch)[0]


@pytest.fixture
def folder(files, tmp_path):
    return write_files(tmp_path / "src", files)


def stored(shards, split):
    """Return label and pixels of every image, in the order of the index."""
    opened = Shards(shards, split)
    images = opened.read(np.arange(len(opened)))
    return [
        (int(label), np.asarray(Image.open(io.BytesIO(image.tobytes()))).tobytes())
        for label, image in zip(opened.index["label"], images, strict=True)
    ]


def seeded_choice(files, classes, imbalance):
    """Return the selected names: each class sorted, shuffled with one RandomState(0), and cut to n_k."""
    generator = np.random.RandomState(0)
    chosen = []
    for k, name in enumerate(classes):
        members = sorted(file for file in files if file.startswith(f"train/{name}/"))
        generator.shuffle(members)
        chosen += [(file, k) for file in members[: int(TRAIN * imbalance ** -(k / 9) + 1e-9)]]
    return chosen


def test_the_choice_is_the_documented_one_with_the_labels_of_the_archive(files, folder):
    source = cifar_lt.read(folder, "cifar10-lt", 10)
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert source.classes == classes
    assert [(item.name, item.label) for item in source.splits["train"]] == seeded_choice(files, classes, 10)
    assert np.bincount(source.splits["train"].labels).tolist() == [20, 15, 11, 9, 7, 5, 4, 3, 2, 2]
    assert np.bincount(source.splits["test"].labels).tolist() == [TEST] * 10
    assert (source.settings, source.subset) == ({"imbalance": 10}, "file-names-seed0")


def test_the_folder_and_the_archive_give_the_same_pixels_for_the_same_images(monkeypatch, tmp_path):
    classes = [f"thing {k}" for k in range(10)]
    files, pixels, labels, tests = small_cifar(monkeypatch, classes=classes, in_order=True)
    contents = cifar("CIFAR10", pixels, labels, tests)
    md5 = {path.split("/")[1]: hashlib.md5(content).hexdigest() for path, content in contents.items()}
    for listed in ("train_list", "test_list"):
        official = [[name, md5[name]] for name, _ in getattr(datasets.CIFAR10, listed)]
        monkeypatch.setattr(datasets.CIFAR10, listed, official)
    meta = datasets.CIFAR10.meta
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta | {"md5": md5[meta["filename"]]})
    archive, folder = write_files(tmp_path / "archive", contents), write_files(tmp_path / "folder", files)
    shards = [tmp_path / "from archive", tmp_path / "from folder"]
    official, other = (
        fasticcl.convert("cifar10-lt", source, dest, imbalance=10)
        for source, dest in zip((archive, folder), shards, strict=True)
    )
    assert official.classes == other.classes == classes
    assert official.splits["train"].class_counts == other.splits["train"].class_counts
    assert "subset" not in official.settings
    assert other.settings == {**official.settings, "subset": "file-names-seed0"}
    # With file names in the order of the archive, both choices are the same.
    for split in ("train", "test"):
        assert stored(shards[0], split) == stored(shards[1], split)
    write_files(folder, contents)
    assert cifar_lt.read(folder, "cifar10-lt", 10).subset is None  # the archive is preferred


def test_folder_with_long_tail_selects_the_same_images(folder, tmp_path):
    shards = [tmp_path / "cifar", tmp_path / "folder"]
    manifests = [
        fasticcl.convert("cifar10-lt", folder, shards[0], imbalance=10),
        fasticcl.convert("folder", folder, shards[1], long_tail=10),
    ]
    assert [manifest.settings["subset"] for manifest in manifests] == ["file-names-seed0"] * 2
    assert manifests[0].classes == manifests[1].classes
    for split in ("train", "test"):
        assert stored(shards[0], split) == stored(shards[1], split)


def without(files, start):
    return {name: content for name, content in files.items() if not name.startswith(start)}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda files: without(files, "test/"),
            r"no folder .*src/test\. CIFAR-10 has 3 of each class in test/",
        ),
        (lambda files: without(files, "train/"), r"no folder .*src/train\. CIFAR-10 has 20 of each class"),
        (
            lambda files: without(files, "train/cat/"),
            r"src/train has no folder of the class 'cat'.*--download",
        ),
        (lambda files: files | {"test/dragon/d.png": b""}, "has the class 'dragon', which CIFAR-10 does not"),
        (lambda files: without(files, min(files)), r"test/airplane has 2 PNG images\. .* 3 of each class"),
        (
            lambda files: files | {"train/cat/x.png": b""},
            r"train/cat has 21 PNG images\. .* 20 of each class",
        ),
        (
            lambda files: files | {min(files): png(np.zeros(3072, np.uint8))[:20]},
            "airplane/.* is not an RGB PNG",
        ),
        (
            lambda files: without(files, min(files)) | {"test/airplane/0.png": files[min(files)]},
            r"file names in .*src are not those in the archive of CIFAR-10.*folder .*src DEST --long-tail 10",
        ),
    ],
    ids=["only train", "only test", "no cat", "another class", "too few", "too many", "not a PNG", "renamed"],
)
def test_other_folders_give_a_clear_error(files, tmp_path, change, sentence):
    folder = write_files(tmp_path / "src", change(files))
    with pytest.raises(UserError, match=sentence):
        cifar_lt.read(folder, "cifar10-lt", 10)


def test_images_of_another_size_or_kind_give_a_clear_error(files, tmp_path):
    name = min(files)
    for i, (size, mode) in enumerate([((32, 31), "RGB"), ((16, 32), "RGB"), ((32, 32), "L")]):
        Image.new(mode, size).save(changed := io.BytesIO(), "PNG")
        folder = write_files(tmp_path / str(i), files | {name: changed.getvalue()})
        with pytest.raises(UserError, match=rf"{name} is not an RGB PNG of 32 × 32 pixels.*--download"):
            cifar_lt.read(folder, "cifar10-lt", 10)


def test_the_other_cifar_is_named(folder):
    with pytest.raises(UserError, match=r"src contains CIFAR-10\. Use the layout cifar10-lt for it"):
        cifar_lt.read(folder, "cifar100-lt", 10)


def test_an_empty_folder_gives_the_names_of_the_archive_and_of_the_image_folders(tmp_path):
    with pytest.raises(UserError, match=r"neither cifar-10-python.tar.gz nor .* no image folders train/"):
        cifar_lt.read(tmp_path, "cifar10-lt")


def test_the_classes_are_sorted_and_the_numbers_of_images_those_of_cifar():
    for each in CIFAR.values():
        assert [*each.classes] == sorted({*each.classes})
        assert (each.images * len(each.classes), each.tests * len(each.classes)) == (50_000, 10_000)
