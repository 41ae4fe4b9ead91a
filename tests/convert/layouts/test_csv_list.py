"""Images that are listed in a CSV file: forms of paths, labels and splits, and invalid files."""

import csv
import io
import os

import pytest

import fasticcl
from fasticcl import UserError
from fasticcl.convert.layouts import csv_list
from tests.support.files import write_files
from tests.support.image_sources import stored_images
from tests.support.images import jpegs

IMAGES = jpegs(40)


def write_table(folder, rows, header="path,label,split", encoding="utf-8"):
    """Write the rows as `images.csv`, and an image for each path in them."""
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    for row, image in zip(rows, IMAGES, strict=False):
        write_files(folder, {row[0]: image})
    file = folder / "images.csv"
    file.write_bytes(f"{header}\n{buffer.getvalue()}".encode(encoding))
    return file


def items(source):
    return {split: [(item.name, item.label) for item in each] for split, each in source.splits.items()}


FEW = [["a.jpg", "cat", "train"], ["b.jpg", "ant", "train"], ["c.jpg", "cat", "val"]]


def test_labels_are_indices_into_the_sorted_names(tmp_path):
    source = csv_list.read(write_table(tmp_path, [*FEW, ["deep/er/d.jpg", "ant", "test"]]))
    assert source.dataset == "folder"
    assert source.classes == ["ant", "cat"]
    assert items(source) == {
        "train": [("a.jpg", 1), ("b.jpg", 0)],
        "val": [("c.jpg", 1)],
        "test": [("deep/er/d.jpg", 0)],
    }


def test_numbers_sort_as_numbers(tmp_path):
    lines = [[f"{i}.jpg", label, "train"] for i, label in enumerate(["10", "2", "0", "10"])]
    source = csv_list.read(write_table(tmp_path, [*lines, ["v.jpg", "2", "val"]]))
    assert source.classes == ["0", "2", "10"]
    assert source.splits["train"].labels.tolist() == [2, 1, 0, 2]


def test_one_name_among_numbers_makes_all_sort_as_names(tmp_path):
    lines = [[f"{i}.jpg", label, "train"] for i, label in enumerate(["10", "2", "ant", "-1", "1.5"])]
    source = csv_list.read(write_table(tmp_path, [*lines, ["v.jpg", "2", "val"]]))
    assert source.classes == ["-1", "1.5", "10", "2", "ant"]


def test_equal_numbers_with_different_digits_have_a_fixed_order(tmp_path):
    labels = ["1", "00001", "01", "000001", "001", "0000001", "0001"]
    lines = [[f"{i}.jpg", label, "train"] for i, label in enumerate(labels)]
    source = csv_list.read(write_table(tmp_path, [*lines, ["v.jpg", "1", "val"]]))
    assert source.classes == sorted(labels)


def test_the_order_of_columns_and_other_columns_do_not_matter(tmp_path):
    file = write_table(tmp_path, [["a.jpg", "7", "train", "cat"], ["b.jpg", "8", "test", "cat"]])
    file.write_text(file.read_text().replace("path,label,split", "path,weight,split,label"))
    assert items(csv_list.read(file)) == {"train": [("a.jpg", 0)], "test": [("b.jpg", 0)]}


def test_names_may_contain_all_that_csv_can_quote(tmp_path):
    lines = [
        ['one, two "three".jpg', "café, noir", "train"],
        ["two\nlines.jpg", "a b", "train"],
        ["鳥.jpg", "鳥", "train"],
        ["v.jpg", "鳥", "val"],
    ]
    file = write_table(tmp_path, lines)
    assert fasticcl.convert("list", file, tmp_path / "shards").classes == ["a b", "café, noir", "鳥"]
    assert stored_images(tmp_path / "shards", "train") == list(enumerate([IMAGES[1], IMAGES[0], IMAGES[2]]))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["unix", "windows"])
def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path, encoding, newline):
    file = write_table(tmp_path, FEW)
    text = file.read_bytes().decode().replace("\r\n", "\n").replace("\n", newline)
    file.write_bytes(text.encode(encoding))
    assert items(csv_list.read(file)) == {"train": [("a.jpg", 1), ("b.jpg", 0)], "val": [("c.jpg", 1)]}


def test_paths_are_relative_to_the_file_or_absolute(tmp_path, monkeypatch):
    (tmp_path / "lists").mkdir()
    elsewhere = write_files(tmp_path / "elsewhere", {"b.jpg": IMAGES[1]})
    write_files(tmp_path, {"beside.jpg": IMAGES[2], "lists/a.jpg": IMAGES[0]})
    file = tmp_path / "lists" / "images.csv"
    file.write_text(f"path,label,split\na.jpg,x,train\n{elsewhere / 'b.jpg'},y,train\n../beside.jpg,y,val\n")
    monkeypatch.chdir(elsewhere)
    fasticcl.convert("list", os.path.relpath(file), tmp_path / "shards")
    assert stored_images(tmp_path / "shards", "train") == [(0, IMAGES[0]), (1, IMAGES[1])]
    assert stored_images(tmp_path / "shards", "val") == [(1, IMAGES[2])]


def test_a_missing_image_is_listed(tmp_path):
    file = write_table(tmp_path, [*FEW, ["lost.jpg", "cat", "train"]])
    (tmp_path / "lost.jpg").unlink()
    with pytest.raises(UserError, match=r"1 image cannot be read, for example lost\.jpg \(No such file"):
        fasticcl.convert("list", file, tmp_path / "shards")
    manifest = fasticcl.convert("list", file, tmp_path / "shards", max_corrupt=1)
    assert manifest.splits["train"].class_counts == [1, 1]


def test_val_fraction_uses_a_fraction_of_every_class_as_val(tmp_path):
    lines = [[f"{i}.jpg", "cat" if i < 20 else "ant"] for i in range(30)]
    file = write_table(tmp_path, lines, header="path,label")
    manifest = fasticcl.convert("list", file, tmp_path / "shards", val_fraction=0.2)
    assert manifest.classes == ["ant", "cat"]
    assert {split: info.class_counts for split, info in manifest.splits.items()} == {
        "train": [8, 16],
        "val": [2, 4],
    }
    stored = stored_images(tmp_path / "shards", "train") + stored_images(tmp_path / "shards", "val")
    assert sorted(stored) == sorted((int(i < 20), IMAGES[i]) for i in range(30))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "lists no images. It needs a first line `path,label,split`"),
        (b"path,label,split\n", "lists no images"),
        (b"\n\n", "lists no images"),
        (b"a.jpg,cat,train\nb.jpg,cat,val\n", "has no column path"),
        (b"label,split\ncat,train\n", "has no column path"),
        (b"path,split\na.jpg,train\n", "has no column label"),
        (b"path,label\na.jpg,cat\n", "has no column split. Add it, or use --val-fraction"),
        (b"path;label;split\na.jpg;cat;train\n", "has no column path"),
        (b"path,label,split\na.jpg,cat,train\nb.jpg,cat\n", "line 3: too few or too many fields"),
        (b"path,label,split\na.jpg,cat,train,1\nb.jpg,cat,val\n", "line 2: too few or too many"),
        (b"path,label,split\na.jpg\n", "line 2: too few or too many fields"),
        (b"path,label,split\n,cat,train\n", "line 2: "),
        (b"path,label,split\na.jpg,,train\n", "line 2: "),
        (b"path,label,split\na.jpg,cat,train\nb.jpg,cat,dev\n", "line 3: the split must be .* not 'dev'"),
        (b"path,label,split\na.jpg,cat,\n", "line 2: the split must be train, val or test, not ''"),
        (b"path,label,split\na.jpg,cat,Train\n", "line 2: the split must be .* not 'Train'"),
        (b"path,label,split\na.jpg,cat,val\n", "has no image with the split train"),
        (b"path,label,split\na.jpg,cat,train\n", "has no image with the split val or test for evaluation"),
        (
            b"path,label,split\na.jpg,cat,train\nb.jpg,ant,val\n",
            r"b\.jpg has the label 'ant', which no training image has",
        ),
        (b'path,label,split\n"a.jpg,cat,train\n', "is not a CSV file: unexpected end of data"),
        (b'path,label,split\n"a"b,cat,train\n', "is not a CSV file"),
        ("path,label,split\né.jpg,cat,train\n".encode("latin1"), "is not a CSV file: 'utf-8' codec"),
        ("path,label,split\na.jpg,cat,train\n".encode("utf-16"), "is not a CSV file: 'utf-8' codec"),
        (IMAGES[0], "is not a CSV file"),
        (b'path,label,split\n"' + b"a" * 200_000 + b'",cat,train\n', "is not a CSV file: field larger"),
    ],
    ids=lambda value: repr(value[:60]) if isinstance(value, bytes) else "",
)
def test_an_invalid_csv_file_gives_a_clear_error(tmp_path, content, sentence):
    file = tmp_path / "images.csv"
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"images\.csv.*{sentence}") as refused:
        fasticcl.convert("list", file, tmp_path / "shards")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "shards").exists()


def test_an_invalid_path_gives_a_clear_error(tmp_path):
    file = write_table(tmp_path, FEW)
    file.write_bytes(file.read_bytes().replace(b"b.jpg", b"b\0.jpg"))
    with pytest.raises(UserError, match=r"line 3|1 image cannot be read"):
        fasticcl.convert("list", file, tmp_path / "shards")


@pytest.mark.parametrize("text", ["\n\nb.jpg,cat,dev\n", '"a\nb.jpg",cat,train\nb.jpg,cat,dev\n'])
def test_line_numbers_are_those_of_an_editor(tmp_path, text):
    file = tmp_path / "images.csv"
    file.write_text("path,label,split\n" + text)
    with pytest.raises(UserError, match=r"images\.csv, line 4: the split must be"):
        csv_list.read(file)


def test_a_split_column_excludes_val_fraction(tmp_path):
    with pytest.raises(
        UserError, match=r"has a column split\. Leave out --val-fraction or remove the column"
    ):
        csv_list.read(write_table(tmp_path, FEW), val_fraction=0.1)


@pytest.mark.parametrize(("there", "reason"), [(True, "Is a directory"), (False, "No such file")])
def test_a_file_that_cannot_be_read_is_named(tmp_path, there, reason):
    if there:
        (tmp_path / "images.csv").mkdir()
    with pytest.raises(UserError, match=rf"Cannot read .*images\.csv: {reason}"):
        fasticcl.convert("list", tmp_path / "images.csv", tmp_path / "shards")
