"""ImageNet-LT: ILSVRC-2012 in its usual layouts, and the lists that select from it."""

import io
import json

import pytest
from rich.console import Console

import fasticcl
from fasticcl import UserError
from fasticcl.convert.layouts import imagenet_lt as layout
from tests.support.files import write_files
from tests.support.image_sources import stored_images
from tests.support.images import jpegs
from tests.support.replicas import git_blob

WORDNET = ["n01440764", "n01443537", "n02123045"]
TRAIN = [(0, 10), (2, 4), (0, 2), (1, 7), (0, 31), (1, 5), (2, 40)]
VAL = [(2, 8), (0, 3), (1, 1)]
TEST = [(1, 2), (0, 3), (2, 1)]
KAGGLE = "ILSVRC/Data/CLS-LOC/"


def train_name(label, number):
    return f"train/{WORDNET[label]}/{WORDNET[label]}_{number}.JPEG"


def val_name(label, number, flat):
    return f"val/{'' if flat else WORDNET[label] + '/'}ILSVRC2012_val_{number:08d}.JPEG"


def lists(flat=True, newline=True):
    """Return the three lists by file name."""
    lines = {
        "train": [f"{train_name(*image)} {image[0]}" for image in TRAIN],
        "val": [f"{train_name(*image)} {image[0]}" for image in VAL],
        "test": [f"{val_name(*image, flat)} {image[0]}" for image in TEST],
    }
    return {
        f"ImageNet_LT_{split}.txt": ("\n".join(each) + "\n" * newline).encode()
        for split, each in lines.items()
    }


def images(flat=True):
    """Return all images of the replica of ILSVRC-2012 by path, including some that are not in the lists."""
    names = [train_name(label, number) for label in range(3) for number in range(50)]
    names += [val_name(label, number, flat) for label, number in [*TEST, (0, 99)]]
    return dict(zip(names, jpegs(len(names)), strict=True))


def expected(flat_on_disk):
    """Return label and bytes of the images of each split, by class and then in the order of the list."""
    contents = images(flat_on_disk)
    listed = {
        "train": [(label, contents[train_name(label, number)]) for label, number in TRAIN],
        "val": [(label, contents[train_name(label, number)]) for label, number in VAL],
        "test": [(label, contents[val_name(label, number, flat_on_disk)]) for label, number in TEST],
    }
    return {split: sorted(each, key=lambda row: row[0]) for split, each in listed.items()}


@pytest.mark.parametrize("root", ["", KAGGLE], ids=["plain", "kaggle"])
@pytest.mark.parametrize("flat_in_list", [True, False], ids=["flat list", "list per class"])
@pytest.mark.parametrize("flat_on_disk", [True, False], ids=["flat val", "val per class"])
def test_val_is_found_flat_or_by_class_in_the_list_and_on_disk(tmp_path, flat_on_disk, flat_in_list, root):
    write_files(tmp_path / "src", {root + name: content for name, content in images(flat_on_disk).items()})
    write_files(tmp_path / "lists", lists(flat_in_list))
    manifest = fasticcl.convert(
        "imagenet-lt", tmp_path / "src", tmp_path / "shards", lists=tmp_path / "lists", shard_size=3
    )
    assert manifest.dataset == "imagenet-lt"
    assert manifest.classes == WORDNET
    assert manifest.splits["train"].class_counts == [3, 2, 2]
    for split, wanted in expected(flat_on_disk).items():
        assert stored_images(tmp_path / "shards", split) == wanted
    assert fasticcl.verify(tmp_path / "shards", decode=True).problems == []


@pytest.mark.parametrize("root", ["", KAGGLE], ids=["plain", "kaggle"])
def test_lists_may_be_in_the_folder_of_the_images(tmp_path, root):
    write_files(tmp_path, {root + name: content for name, content in images().items()})
    write_files(tmp_path, lists())
    source = layout.read(tmp_path)
    assert [(item.name, item.label) for item in source.splits["train"]] == [
        (train_name(*image), image[0]) for image in TRAIN
    ]


def test_classes_are_wordnet_ids_in_the_order_of_the_labels(tmp_path):
    write_files(tmp_path, images())
    turned = {
        name: b"".join(line[:-1] + str(2 - int(line[-1:])).encode() + b"\n" for line in content.splitlines())
        for name, content in lists().items()
    }
    source = layout.read(write_files(tmp_path, turned))
    assert source.classes == WORDNET[::-1]
    assert [item.label for item in source.splits["test"]] == [1, 2, 0]


@pytest.mark.parametrize("newline", [True, False], ids=["final newline", "no final newline"])
@pytest.mark.parametrize("published_newline", [True, False], ids=["published with", "published without"])
def test_published_lists_are_recognised_with_and_without_their_final_newline(
    tmp_path, monkeypatch, newline, published_newline
):
    published = {
        split: git_blob(lists(newline=published_newline)[f"ImageNet_LT_{split}.txt"])
        for split in ("train", "val", "test")
    }
    monkeypatch.setattr(layout, "PUBLISHED", published)
    write_files(tmp_path, images())
    source = layout.read(write_files(tmp_path, lists(newline=newline)))
    assert list(source.notes) == [
        f"ImageNet_LT_{split}.txt is the published list" for split in ("train", "val", "test")
    ]
    assert [len(source.splits[split]) for split in ("train", "val", "test")] == [7, 3, 3]


def test_a_list_that_is_not_the_published_one_causes_a_note(tmp_path, monkeypatch):
    published = {split: git_blob(lists()[f"ImageNet_LT_{split}.txt"]) for split in ("train", "val", "test")}
    monkeypatch.setattr(layout, "PUBLISHED", published)
    write_files(tmp_path / "src", images())
    mine = lists()
    mine["ImageNet_LT_val.txt"] = b"".join(mine["ImageNet_LT_val.txt"].splitlines(keepends=True)[::-1])
    write_files(tmp_path / "lists", mine)
    output = io.StringIO()
    fasticcl.convert(
        "imagenet-lt",
        tmp_path / "src",
        tmp_path / "shards",
        lists=tmp_path / "lists",
        console=Console(file=output, width=500),
    )
    assert output.getvalue().splitlines() == [
        "ImageNet_LT_train.txt is the published list",
        "ImageNet_LT_val.txt is used, but it is not the published list",
        "ImageNet_LT_test.txt is the published list",
    ]


def test_the_published_hashes_are_those_of_the_reference():
    assert layout.PUBLISHED == {
        "train": "a063f095fcd475db4cf8b0658c4b73955535bbf9",
        "val": "3ed3188b2f44829ce2dec1cc27040d8d40984088",
        "test": "76a2fb9749d6cd29e765cc4f8c270f2504131e2f",
    }


def test_windows_line_ends_do_not_matter(tmp_path):
    write_files(tmp_path, images())
    turned = {name: content.replace(b"\n", b"\r\n") for name, content in lists().items()}
    source = layout.read(write_files(tmp_path, turned))
    assert [(item.name, item.label) for item in source.splits["val"]] == [
        (train_name(*image), image[0]) for image in VAL
    ]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_missing_list_is_named(tmp_path, split):
    write_files(tmp_path, images() | lists())
    (tmp_path / f"ImageNet_LT_{split}.txt").unlink()
    with pytest.raises(UserError, match=rf"Cannot read .*ImageNet_LT_{split}\.txt: No such file.*--lists"):
        layout.read(tmp_path)


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(
    "line",
    [
        b"train/n01440764/n01440764_10.JPEG",
        b"0",
        b"train/n01440764/a.JPEG -1",
        b"a.JPEG one",
        b"",
        b"a.JPEG 0 ",
    ],
    ids=["no label", "no path", "negative", "a word", "empty", "space at the end"],
)
def test_a_malformed_line_is_named(tmp_path, split, line):
    write_files(tmp_path, images())
    mine = lists()
    name = f"ImageNet_LT_{split}.txt"
    first, rest = mine[name].split(b"\n", 1)
    mine[name] = first + b"\n" + line + b"\n" + rest
    write_files(tmp_path, mine)
    with pytest.raises(UserError, match=rf"{name}, line 2: expected `path label`, got "):
        layout.read(tmp_path)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_another_file_in_place_of_a_list_gives_a_clear_error(tmp_path, split):
    write_files(tmp_path, images() | lists())
    write_files(tmp_path, {f"ImageNet_LT_{split}.txt": b"<!DOCTYPE html><html>\xff\x00</html>\n"})
    with pytest.raises(UserError, match=rf"ImageNet_LT_{split}\.txt, line 1"):
        layout.read(tmp_path)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_empty_list_gives_a_clear_error(tmp_path, split):
    write_files(tmp_path, images() | lists())
    write_files(tmp_path, {f"ImageNet_LT_{split}.txt": b""})
    with pytest.raises(UserError, match=rf"ImageNet_LT_{split}\.txt"):
        layout.read(tmp_path)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["train/n01443537/x.JPEG 0"], "assigns the label 0 to both n01440764 and n01443537"),
        (["train/n01440764/x.JPEG 3"], "does not have exactly one label for each class"),
        (["train/n02999999/x.JPEG 4"], "does not have exactly one label for each class"),
    ],
    ids=["one label, two classes", "one class, two labels", "a label left out"],
)
def test_inconsistent_labels_give_a_clear_error(tmp_path, lines, sentence):
    write_files(tmp_path, images())
    mine = lists()
    mine["ImageNet_LT_train.txt"] += "\n".join(lines).encode()
    write_files(tmp_path, mine)
    with pytest.raises(UserError, match=sentence):
        layout.read(tmp_path)


@pytest.mark.parametrize(
    ("split", "line"),
    [
        ("val", f"train/{WORDNET[1]}/{WORDNET[1]}_9.JPEG 0"),
        ("test", f"val/{WORDNET[1]}/ILSVRC2012_val_00000002.JPEG 0"),
    ],
)
@pytest.mark.parametrize("flat", [True, False], ids=["flat val", "val per class"])
def test_labels_of_val_and_test_that_contradict_train_give_a_clear_error(tmp_path, split, line, flat):
    write_files(tmp_path, images(flat) | lists() | {f"ImageNet_LT_{split}.txt": line.encode() + b"\n"})
    with pytest.raises(UserError, match=rf"{WORDNET[0]}.*{WORDNET[1]}|{WORDNET[1]}.*{WORDNET[0]}"):
        layout.read(tmp_path)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_label_that_train_lacks_gives_a_clear_error(tmp_path, split):
    write_files(tmp_path, images())
    mine = lists()
    mine[f"ImageNet_LT_{split}.txt"] += b"val/ILSVRC2012_val_00000099.JPEG 3\n"
    write_files(tmp_path, mine)
    with pytest.raises(UserError, match="contains the label 3, which the train list does not"):
        layout.read(tmp_path)


@pytest.mark.parametrize("name", ["../n01440764/x.JPEG", "/n01440764/x.JPEG", "train/../../n01440764/x.JPEG"])
def test_a_path_outside_the_dataset_gives_a_clear_error(tmp_path, name):
    write_files(tmp_path, images())
    mine = lists()
    mine["ImageNet_LT_train.txt"] += f"{name} 0\n".encode()
    write_files(tmp_path, mine)
    with pytest.raises(UserError, match="which is outside the dataset"):
        layout.read(tmp_path)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_folder_of_other_files_gives_a_clear_error(tmp_path, split):
    there = {name: content for name, content in images().items() if not name.startswith(f"{split}/")}
    write_files(tmp_path / "src", there | {f"{split}/readme.txt": b"hello"})
    write_files(tmp_path / "lists", lists())
    first = train_name(*TRAIN[0]) if split == "train" else "val/"
    with pytest.raises(UserError, match=rf"has neither {first}.* nor any of the next images"):
        layout.read(tmp_path / "src", tmp_path / "lists")


def test_missing_images_are_listed(tmp_path):
    write_files(tmp_path / "src", images())
    write_files(tmp_path / "lists", lists())
    lost = [train_name(*TRAIN[1]), val_name(*TEST[2], flat=True)]
    for name in lost:
        (tmp_path / "src" / name).unlink()
    shards = tmp_path / "shards"
    with pytest.raises(UserError, match=rf"2 images cannot be read, for example {lost[0]} "):
        fasticcl.convert("imagenet-lt", tmp_path / "src", shards, lists=tmp_path / "lists")
    listed = [json.loads(line) for line in (shards / "quarantine.jsonl").read_text().splitlines()]
    assert [entry["image"] for entry in listed] == lost
