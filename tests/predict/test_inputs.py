"""Images in files, folders, shards and tar archives, and their order."""

import os

import numpy as np
import pytest

from fasticcl.errors import UserError
from fasticcl.predict.inputs import find_images
from fasticcl.shards.images import UnreadableImage
from fasticcl.shards.reader import Shards
from tests.support.replicas import write_tar


def image_names(*paths):
    return [image.name for image in find_images(paths)]


@pytest.fixture
def folder(tmp_path):
    for name in (
        "b/2.JPG",
        "b/10.png",
        "a.webp",
        "c.tif",
        "b/deep/x.jpeg",
        ".hidden.jpg",
        ".cache/y.jpg",
        "notes.txt",
    ):
        path = tmp_path / "album" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "album"


def test_folder_is_searched_recursively_and_sorted_by_name(folder):
    names = [os.path.relpath(name, folder) for name in image_names(folder)]
    assert names == ["a.webp", "b/10.png", "b/2.JPG", "b/deep/x.jpeg", "c.tif"]


def test_images_have_the_order_of_the_arguments(folder):
    images = find_images([folder / "notes.txt", folder / "b", folder / "a.webp"])
    assert [image.read() for image in images] == [
        b"notes.txt",  # a file that is named explicitly counts as an image
        b"b/10.png",
        b"b/2.JPG",
        b"b/deep/x.jpeg",
        b"a.webp",
    ]


def test_links_to_images_are_followed_but_links_to_folders_are_not(folder):
    (folder / "b" / "loop").symlink_to(folder)
    (folder / "d.jpg").symlink_to(folder / "a.webp")
    (folder / "e.jpg").symlink_to(folder / "gone")
    *_, linked, broken = find_images([folder])
    assert linked.read() == b"a.webp"
    with pytest.raises(FileNotFoundError):
        broken.read()


def test_shards_are_read_completely_or_by_split(photo_shards):
    train, val = (Shards(photo_shards, split) for split in ("train", "val"))
    names = image_names(photo_shards)
    assert len(names) == len(train) + len(val)
    val_names = image_names(photo_shards / "val")
    assert val_names == [str(photo_shards / val.name(row)) for row in range(len(val))]
    assert [name for name in names if "/val/" in name] == val_names
    *_, last = find_images([photo_shards / "val"])
    assert last.read() == val.read(np.array([len(val) - 1]))[0].tobytes()


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_images_in_a_tar_keep_its_order(tmp_path, suffix):
    path = tmp_path / f"images{suffix}"
    names = ("z.jpg", "label.cls", "a/b.png", "a/.hidden.png")
    write_tar(path, [(name, name.encode()) for name in names])
    images = [(image.name, image.read()) for image in find_images([path])]
    assert images == [(f"{path}/z.jpg", b"z.jpg"), (f"{path}/a/b.png", b"a/b.png")]


def test_truncated_tar_yields_its_complete_images_and_then_an_error(tmp_path):
    path = tmp_path / "truncated.tar"
    write_tar(path, [("1.jpg", bytes(5000)), ("2.jpg", bytes(5000))])
    path.write_bytes(path.read_bytes()[:7000])
    first, broken = find_images([path])
    assert first.read() == bytes(5000)
    assert broken.name == str(path)
    with pytest.raises(UnreadableImage, match="unexpected end of data"):
        broken.read()


def test_missing_paths_and_empty_folders_raise_before_the_first_image(folder, tmp_path):
    with pytest.raises(UserError, match=r"gone\.jpg does not exist"):
        find_images([folder, tmp_path / "gone.jpg"])
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"empty contains no images"):
        find_images([folder, tmp_path / "empty"])


def test_folders_are_listed_lazily(tmp_path, monkeypatch):
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    scanned, scandir = [], os.scandir
    monkeypatch.setattr("os.scandir", lambda path: scanned.append(os.path.basename(path)) or scandir(path))
    next(find_images([tmp_path]))
    assert scanned == [tmp_path.name, "a"]
