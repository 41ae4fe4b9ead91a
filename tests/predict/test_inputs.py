"""Which pictures a person means, in which order, and what is said of those that are not there."""

import io
import os
import tarfile

import numpy as np
import pytest

from fasticcl.errors import UserError
from fasticcl.predict.inputs import find_images
from fasticcl.shards.images import UnreadableImage
from fasticcl.shards.reader import Shards


def names(*paths):
    return [picture.name for picture in find_images(paths)]


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


def test_a_folder_gives_its_pictures_sorted_by_name_whatever_their_depth(folder):
    found = [os.path.relpath(name, folder) for name in names(folder)]
    assert found == ["a.webp", "b/10.png", "b/2.JPG", "b/deep/x.jpeg", "c.tif"]


def test_pictures_come_in_the_order_of_the_arguments_with_their_bytes(folder):
    found = list(find_images([folder / "notes.txt", folder / "b", folder / "a.webp"]))
    assert [picture.read() for picture in found] == [
        b"notes.txt",  # named by a person, it is taken for a picture
        b"b/10.png",
        b"b/2.JPG",
        b"b/deep/x.jpeg",
        b"a.webp",
    ]


def test_links_to_pictures_count_and_links_to_folders_do_not_lead_in_circles(folder):
    (folder / "b" / "round").symlink_to(folder)
    (folder / "d.jpg").symlink_to(folder / "a.webp")
    (folder / "e.jpg").symlink_to(folder / "gone")
    *_, linked, broken = find_images([folder])
    assert linked.read() == b"a.webp"
    with pytest.raises(FileNotFoundError):
        broken.read()


def test_shards_are_read_as_a_whole_or_by_split(photo_shards):
    train, val = (Shards(photo_shards, split) for split in ("train", "val"))
    found = names(photo_shards)
    assert len(found) == len(train) + len(val)
    assert names(photo_shards / "val") == [str(photo_shards / val.name(row)) for row in range(len(val))]
    assert [name for name in found if "/val/" in name] == names(photo_shards / "val")
    *_, last = find_images([photo_shards / "val"])
    assert last.read() == val.read(np.array([len(val) - 1]))[0].tobytes()


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_tar_gives_its_pictures_in_its_order(tmp_path, suffix):
    path = tmp_path / f"pictures{suffix}"
    with tarfile.open(path, "w:gz" if suffix.endswith("gz") else "w") as tar:
        for name in ("z.jpg", "label.cls", "a/b.png", "a/.hidden.png"):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    found = [(picture.name, picture.read()) for picture in find_images([path])]
    assert found == [(f"{path}/z.jpg", b"z.jpg"), (f"{path}/a/b.png", b"a/b.png")]


def test_a_tar_that_is_cut_short_gives_what_it_has_and_then_says_so(tmp_path):
    path = tmp_path / "cut.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("1.jpg", "2.jpg"):
            member = tarfile.TarInfo(name)
            member.size = 5000
            tar.addfile(member, io.BytesIO(bytes(5000)))
    path.write_bytes(path.read_bytes()[:7000])
    first, broken = find_images([path])
    assert first.read() == bytes(5000)
    assert broken.name == str(path)
    with pytest.raises(UnreadableImage, match="unexpected end of data"):
        broken.read()


def test_what_is_not_there_is_named_before_anything_is_listed(folder, tmp_path):
    with pytest.raises(UserError, match=r"gone\.jpg does not exist"):
        find_images([folder, tmp_path / "gone.jpg"])
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"empty contains no images"):
        find_images([folder, tmp_path / "empty"])


def test_a_long_listing_is_not_read_ahead(tmp_path, monkeypatch):
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    seen, scandir = [], os.scandir
    monkeypatch.setattr("os.scandir", lambda path: seen.append(os.path.basename(path)) or scandir(path))
    next(find_images([tmp_path]))
    assert seen == [tmp_path.name, "a"]
