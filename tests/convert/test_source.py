"""Lists of images and their fingerprints."""

import os

import numpy as np
import pytest

from fasticcl.convert.source import Item, ItemList, check_some_file_exists, list_files
from fasticcl.errors import UserError

NAMES = ["a/1.jpg", "b/é.jpg", os.fsdecode(b"c/\xff.jpg"), "d/4.jpg"]


@pytest.fixture
def items():
    return ItemList(NAMES, [0, 1, 2, 3], lambda position, name: os.fsencode(f"{position} {name}"))


def test_items_have_the_names_labels_and_content_of_the_list(items):
    assert [item.name for item in items] == NAMES
    assert [item.label for item in items] == [0, 1, 2, 3]
    assert items[3].read() == b"3 d/4.jpg"


def test_slices_and_subsets_keep_their_content(items):
    taken = items.take(np.array([3, 0]))
    assert [(item.name, item.label) for item in taken] == [("d/4.jpg", 3), ("a/1.jpg", 0)]
    assert [item.name for item in taken[1:]] == ["a/1.jpg"]
    assert taken[0].read() == b"3 d/4.jpg"


def test_relabelling_changes_only_the_labels(items):
    relabelled = items.relabelled(np.array([5, 5, 6, 6]))
    assert [item.label for item in relabelled] == [5, 5, 6, 6]
    assert [item.name for item in relabelled] == NAMES
    assert items.labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.jpg", "a/../../b.jpg"])
def test_names_outside_the_folder_are_rejected(tmp_path, name):
    with pytest.raises(UserError, match=f"'{name}', which is outside the dataset"):
        list_files(tmp_path, ["a.jpg", name], [0, 0])


def test_one_existing_file_is_enough_to_accept_a_folder(tmp_path):
    (tmp_path / "b.jpg").touch()
    check_some_file_exists(list_files(tmp_path, ["a.jpg", "b.jpg"], [0, 0]), tmp_path)
    with pytest.raises(UserError, match=r"has neither a\.jpg nor any of the next images"):
        check_some_file_exists(list_files(tmp_path, ["a.jpg", "c.jpg"], [0, 0]), tmp_path)


def test_a_fingerprint_depends_on_name_label_and_size(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"12345")
    text, modified = Item(path, 0, "a.jpg").fingerprint()
    assert modified == path.stat().st_mtime_ns
    assert Item(path, 1, "a.jpg").fingerprint()[0] != text
    assert Item(path, 0, "b.jpg").fingerprint()[0] != text
    path.write_bytes(b"123456")
    assert Item(path, 0, "a.jpg").fingerprint()[0] != text


@pytest.mark.parametrize("name", ["nowhere.jpg", "a\0.jpg"])
def test_missing_file_has_a_fingerprint_and_raises_an_error_when_read(tmp_path, name):
    item = Item(tmp_path / name, 0, name)
    assert item.fingerprint() == (f"{name} 0 missing", 0)
    with pytest.raises(OSError, match=r"\w"):
        item.read()
