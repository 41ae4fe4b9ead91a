"""iNaturalist 2018 in its official layout, unpacked or as downloaded."""

import copy
import gzip
import json
import random
import shutil
import sys

import numpy as np
import pytest

import fasticcl
from fasticcl import UserError, longtail
from fasticcl.cli.main import main
from fasticcl.convert.layouts import inat2018 as layout
from fasticcl.shards.manifest import Manifest
from tests.support.files import write_files, write_tar
from tests.support.image_sources import stored_images
from tests.support.images import jpegs
from tests.support.replicas import inat2018, inat2018_profile

REPLICA = inat2018({7: 3, 5477: 4, 3: 2, 12: 2}, val=2)
SPECIES = ["species 0003", "species 0007", "species 0012", "species 5477"]
TRAIN = [name for name, _ in REPLICA.images["train"]]


def quarantined(shards):
    lines = (shards / "quarantine.jsonl").read_text().splitlines()
    return [(entry["image"], entry["reason"]) for entry in map(json.loads, lines)]


def changed(change, split="train"):
    """Return the annotations of the replica, with ``change`` applied to one split."""
    annotations = copy.deepcopy(REPLICA.annotations)
    change(annotations[split])
    return {f"{split}2018.json": json.dumps(each).encode() for split, each in annotations.items()}


def test_labels_are_ranks_of_category_ids_and_images_are_joined_by_their_id(tmp_path):
    source = layout.read(REPLICA.write(tmp_path))
    assert source.classes == SPECIES
    rank = {3: 0, 7: 1, 12: 2, 5477: 3}
    for split, images in REPLICA.images.items():
        assert [(item.name, item.label) for item in source.splits[split]] == [
            (name, rank[category]) for name, category in images
        ]


@pytest.mark.parametrize("packed", [False, True], ids=["json", "json.tar.gz"])
def test_categories_give_the_real_names(tmp_path, packed):
    REPLICA.write(tmp_path)
    names = [
        {"id": 5477, "name": "Bombus terrestris"},
        {"id": 3, "name": "Fratercula arctica"},
        {"id": 9999, "name": "Homo sapiens"},
    ]
    content = json.dumps(names).encode()
    if packed:
        write_tar(tmp_path / "categories.json.tar.gz", [("categories.json", content)])
    else:
        write_files(tmp_path, {"categories.json": content})
    assert layout.read(tmp_path).classes == [
        "Fratercula arctica",
        "species 0007",
        "species 0012",
        "Bombus terrestris",
    ]


def test_a_folder_becomes_shards_sorted_by_class_and_then_as_listed(tmp_path):
    manifest = fasticcl.convert(
        "inat2018", REPLICA.write(tmp_path / "src"), tmp_path / "shards", shard_size=3
    )
    assert manifest.classes == SPECIES
    assert manifest.splits["train"].class_counts == [2, 3, 2, 4]
    for split in ("train", "val"):
        assert stored_images(tmp_path / "shards", split) == REPLICA.rows(split)
    assert quarantined(tmp_path / "shards") == []


@pytest.mark.parametrize("name", ["train_val2018.tar.gz", "train_val2018.tgz", "train_val2018.tar"])
def test_downloads_need_no_unpacking(tmp_path, name):
    source = REPLICA.write_downloads(tmp_path, name)
    before = sorted(tmp_path.rglob("*"))
    manifest = fasticcl.convert("inat2018", source, tmp_path / "shards", shard_size=3)
    assert manifest.classes == SPECIES
    for split in ("train", "val"):
        assert stored_images(tmp_path / "shards", split) == REPLICA.rows(split)
    assert fasticcl.verify(tmp_path / "shards", decode=True).problems == []
    assert sorted(path for path in tmp_path.rglob("*") if tmp_path / "shards" not in path.parents) == sorted(
        [*before, tmp_path / "shards"]
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("prefix", ["", "./"])
def test_the_order_and_the_other_members_of_the_archive_do_not_matter(tmp_path, seed, prefix):
    REPLICA.write_annotations(tmp_path)
    others = {"train_val2018/README": b"hello", "test2018/0.jpg": jpegs(1)[0], "train_val2018/0.jpg": b""}
    members = [(prefix + name, content) for name, content in (REPLICA.contents | others).items()]
    random.Random(seed).shuffle(members)
    write_tar(tmp_path / "train_val2018.tar.gz", members)
    fasticcl.convert("inat2018", tmp_path, tmp_path / "shards", shard_size=4)
    for split in ("train", "val"):
        assert stored_images(tmp_path / "shards", split) == REPLICA.rows(split)


def test_a_limit_selects_the_same_images_from_folder_and_archive(tmp_path):
    for name, write in (("folder", REPLICA.write), ("archive", REPLICA.write_downloads)):
        (tmp_path / name).mkdir()
        fasticcl.convert("inat2018", write(tmp_path / name), tmp_path / f"{name}-shards", limit=6)
    for split in ("train", "val"):
        taken = stored_images(tmp_path / "folder-shards", split)
        assert len(taken) == 6
        assert stored_images(tmp_path / "archive-shards", split) == taken


def test_images_that_the_archive_lacks_are_listed(tmp_path):
    lost = [REPLICA.images["train"][4][0], REPLICA.images["val"][1][0]]
    REPLICA.write_annotations(tmp_path)
    write_tar(
        tmp_path / "train_val2018.tar.gz",
        [(name, content) for name, content in REPLICA.contents.items() if name not in lost],
    )
    shards = tmp_path / "shards"
    with pytest.raises(UserError, match=r"2 images cannot be read, for example .* --max-corrupt 2"):
        fasticcl.convert("inat2018", tmp_path, shards, shard_size=3)
    assert quarantined(shards) == [(name, "not in train_val2018.tar.gz") for name in lost]
    assert Manifest.read(shards) is None

    manifest = fasticcl.convert("inat2018", tmp_path, shards, shard_size=3, max_corrupt=2)
    assert manifest.quarantined == 2
    for split in ("train", "val"):
        absent = {REPLICA.contents[name] for name in lost}
        assert stored_images(shards, split) == [row for row in REPLICA.rows(split) if row[1] not in absent]
    assert fasticcl.verify(shards, decode=True).problems == []


def test_a_broken_image_in_the_archive_is_listed(tmp_path):
    REPLICA.write_annotations(tmp_path)
    broken = REPLICA.contents | {TRAIN[0]: REPLICA.contents[TRAIN[0]][:-2], TRAIN[1]: b""}
    write_tar(tmp_path / "train_val2018.tar.gz", broken.items())
    manifest = fasticcl.convert("inat2018", tmp_path, tmp_path / "shards", max_corrupt=2)
    assert manifest.quarantined == 2
    assert [name for name, _ in quarantined(tmp_path / "shards")] == TRAIN[:2]


def test_an_image_that_the_annotations_list_twice_gives_an_error(tmp_path):
    def repeat(train):
        image, joined = train["images"][0], train["annotations"]
        (category,) = [each["category_id"] for each in joined if each["image_id"] == image["id"]]
        train["images"].append(image | {"id": 900})
        joined.append({"id": 900, "image_id": 900, "category_id": category})

    write_files(tmp_path, changed(repeat))
    write_tar(tmp_path / "train_val2018.tar.gz", REPLICA.contents.items())
    with pytest.raises(UserError, match=TRAIN[0]):
        fasticcl.convert("inat2018", tmp_path, tmp_path / "shards")


def length_of_members(contents):
    """Return the size of a tar without its end marker: headers of 512 bytes and content in blocks of 512."""
    return sum(512 + -(-len(content) // 512) * 512 for content in contents.values())


@pytest.mark.parametrize("name", ["train_val2018.tar.gz", "train_val2018.tar"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.7, 0.9])
def test_an_archive_cut_short_gives_an_error_and_the_whole_one_continues(tmp_path, name, share):
    REPLICA.write_downloads(tmp_path, name)
    whole = (tmp_path / name).read_bytes()
    length = len(whole) if name.endswith("gz") else length_of_members(REPLICA.contents)
    (tmp_path / name).write_bytes(whole[: int(length * share) // 512 * 512 + 100])
    with pytest.raises(UserError, match=rf"{name} is damaged or truncated \(.*\)\. Download it again"):
        fasticcl.convert("inat2018", tmp_path, tmp_path / "shards", shard_size=3)
    assert Manifest.read(tmp_path / "shards") is None
    assert not list((tmp_path / "shards").rglob("*.part"))

    (tmp_path / name).write_bytes(whole)
    fasticcl.convert("inat2018", tmp_path, tmp_path / "shards", shard_size=3)
    for split in ("train", "val"):
        assert stored_images(tmp_path / "shards", split) == REPLICA.rows(split)


def test_an_archive_cut_short_gives_exit_code_2(tmp_path, monkeypatch, capsys):
    REPLICA.write_downloads(tmp_path)
    archive = tmp_path / "train_val2018.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-2000])
    monkeypatch.setattr(
        sys, "argv", ["fasticcl", "convert", "inat2018", str(tmp_path), str(tmp_path / "out")]
    )
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1


def test_an_archive_compressed_in_pieces_is_read_to_its_end(tmp_path):
    REPLICA.write_annotations(tmp_path)
    whole = write_tar(tmp_path / "whole.tar", REPLICA.contents.items()).read_bytes()
    pieces = [whole[:5000], whole[5000:12000], whole[12000:]]
    (tmp_path / "train_val2018.tar.gz").write_bytes(b"".join(map(gzip.compress, pieces)))
    fasticcl.convert("inat2018", tmp_path, tmp_path / "shards")
    for split in ("train", "val"):
        assert stored_images(tmp_path / "shards", split) == REPLICA.rows(split)


def test_a_flipped_byte_that_only_the_archive_detects_gives_a_clear_error(tmp_path):
    REPLICA.write_annotations(tmp_path)
    whole = write_tar(tmp_path / "whole.tar", REPLICA.contents.items()).read_bytes()
    stored = bytearray(gzip.compress(whole, compresslevel=0))
    comment = bytes(stored).index(b"1 of 0")
    stored[comment] ^= 1
    (tmp_path / "train_val2018.tar.gz").write_bytes(stored)
    with pytest.raises(UserError, match=r"train_val2018\.tar\.gz is damaged"):
        fasticcl.convert("inat2018", tmp_path, tmp_path / "shards")
    assert Manifest.read(tmp_path / "shards") is None


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>404</html>" * 100, gzip.compress(b"no tar"), b"\x1f\x8b\x08" + bytes(600)],
    ids=["empty", "html", "gzip of something else", "no gzip"],
)
def test_another_file_in_place_of_the_archive_gives_a_clear_error(tmp_path, content):
    REPLICA.write_annotations(tmp_path)
    (tmp_path / "train_val2018.tar.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"train_val2018\.tar\.gz is damaged or truncated") as refused:
        fasticcl.convert("inat2018", tmp_path, tmp_path / "shards")
    assert "\n" not in str(refused.value)


def test_an_archive_of_other_images_gives_a_clear_error(tmp_path):
    REPLICA.write_annotations(tmp_path)
    write_tar(tmp_path / "train_val2018.tar.gz", [("test2018/0.jpg", jpegs(1)[0])])
    with pytest.raises(UserError, match=rf"contains none of the listed images, such as '{TRAIN[0]}'"):
        fasticcl.convert("inat2018", tmp_path, tmp_path / "shards")


def test_a_missing_image_is_listed_in_the_quarantine(tmp_path):
    REPLICA.write(tmp_path / "src")
    (tmp_path / "src" / TRAIN[2]).unlink()
    with pytest.raises(UserError, match=f"1 image cannot be read, for example {TRAIN[2]}"):
        fasticcl.convert("inat2018", tmp_path / "src", tmp_path / "shards")
    assert quarantined(tmp_path / "shards") == [(TRAIN[2], "No such file or directory")]
    manifest = fasticcl.convert("inat2018", tmp_path / "src", tmp_path / "shards", max_corrupt=1)
    assert sum(manifest.splits["train"].class_counts) == len(TRAIN) - 1


def without(key):
    return lambda annotations: annotations.pop(key)


def set_image(**fields):
    return lambda annotations: annotations["images"][0].update(fields)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda each: each["annotations"].pop(), r"assigns no known category to train_val2018/\S+"),
        (
            lambda each: each["annotations"][0].update(category_id=99),
            r"assigns no known category to train_val2018/\S+",
        ),
        (
            lambda each: each["annotations"].append(each["annotations"][0] | {"category_id": 7}),
            "assigns several categories to one image",
        ),
        (without("images"), "lacks images, annotations or categories"),
        (without("annotations"), "lacks images, annotations or categories"),
        (without("categories"), "lacks images, annotations or categories"),
        (set_image(file_name="../../etc/passwd.jpg"), r"'../../etc/passwd.jpg', which is outside"),
        (set_image(file_name="train_val2018/../../a.jpg"), "which is outside the dataset"),
        (set_image(file_name="/etc/passwd.jpg"), "'/etc/passwd.jpg', which is outside the dataset"),
        (lambda each: each.update(images=[]), r"2018\.json"),
    ],
    ids=[
        "no annotation",
        "unknown category",
        "two categories",
        "no images",
        "no annotations",
        "no categories",
        "dots before",
        "dots within",
        "absolute",
        "empty",
    ],
)
def test_inconsistent_annotations_give_a_clear_error(tmp_path, split, change, sentence):
    write_files(tmp_path, REPLICA.contents)
    write_files(tmp_path, changed(change, split))
    with pytest.raises(UserError, match=sentence):
        layout.read(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"images": [',
        b"\xff\xfe\x00",
        b"[]",
        b"{}",
        b'{"images": [{"id": 1, "coco_url": "?"}], "annotations": [], "categories": []}',
        b'{"images": [{"file_name": "a.jpg"}], "annotations": [], "categories": []}',
        b'{"images": [], "annotations": [{"image_id": 1}], "categories": []}',
        b'{"images": [], "annotations": [], "categories": [{"supercategory": "bird"}]}',
        b'{"images": [], "annotations": [{"id": 1, "caption": "a bird"}], "categories": []}',
        b'{"images": [{"id": 1, "file_name": null}], "annotations": [{"image_id": 1, "category_id": 0}],'
        b' "categories": [{"id": 0, "name": "bird"}]}',
        b'{"images": {"1": "a.jpg"}, "annotations": [], "categories": []}',
    ],
    ids=[
        "empty",
        "cut short",
        "not text",
        "a list",
        "an empty object",
        "images without a file name",
        "an image without an id",
        "an annotation without a category",
        "a category without a name",
        "captions",
        "a file name that is none",
        "images by id",
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_other_json_gives_a_clear_error_that_names_the_file(tmp_path, split, content):
    REPLICA.write(tmp_path)
    write_files(tmp_path, {f"{split}2018.json": content})
    with pytest.raises(UserError, match=rf"{split}2018\.json"):
        layout.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1, 2]", b'[{"id": 7}]', b'{"categories": []}'])
def test_other_categories_give_a_clear_error_that_names_the_file(tmp_path, content):
    REPLICA.write(tmp_path)
    write_files(tmp_path, {"categories.json": content})
    with pytest.raises(UserError, match=r"categories\.json"):
        layout.read(tmp_path)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    "members",
    [[], [("README", b"hello")], [("train2018.json", b"{")]],
    ids=["nothing", "no json", "broken json"],
)
def test_an_archive_without_the_json_file_gives_a_clear_error(tmp_path, split, members):
    REPLICA.write_downloads(tmp_path)
    write_tar(tmp_path / f"{split}2018.json.tar.gz", members)
    with pytest.raises(UserError, match=rf"{split}2018\.json\.tar\.gz cannot be read as annotations"):
        layout.read(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: len(whole) // 10],
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[: len(whole) * 9 // 10],
        lambda whole: whole[:60] + b"\xff" * 64 + whole[124:],
        lambda whole: whole[: len(whole) // 2] + b"\xff" * 64 + whole[len(whole) // 2 + 64 :],
        lambda _: b"<html>404</html>" * 100,
        lambda _: b"",
    ],
    ids=["a tenth", "half", "nearly all", "damaged early", "damaged late", "html", "empty"],
)
def test_a_damaged_json_archive_gives_a_clear_error(tmp_path, damage):
    REPLICA.write_downloads(tmp_path)
    path = tmp_path / "train2018.json.tar.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"train2018\.json\.tar\.gz cannot be read as annotations") as refused:
        layout.read(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_annotation_files_are_named(tmp_path, split):
    REPLICA.write(tmp_path)
    (tmp_path / f"{split}2018.json").unlink()
    with pytest.raises(UserError, match=rf"has neither {split}2018\.json nor {split}2018\.json\.tar\.gz"):
        layout.read(tmp_path)


def test_missing_images_are_named(tmp_path):
    REPLICA.write_annotations(tmp_path)
    with pytest.raises(UserError, match=r"has neither the folder train_val2018/ nor train_val2018\.tar\.gz"):
        layout.read(tmp_path)


def test_a_folder_of_other_images_gives_a_clear_error(tmp_path):
    REPLICA.write_annotations(tmp_path)
    write_files(tmp_path, {"train_val2018/Aves/1/0.jpg": jpegs(1)[0]})
    with pytest.raises(UserError, match=rf"has neither {TRAIN[0]} nor any of the next images"):
        layout.read(tmp_path)


def test_the_profile_has_the_published_figures():
    counts = inat2018_profile()
    assert (len(counts), counts.sum(), counts.max(), counts.min()) == (8142, 437_513, 1000, 2)
    groups = longtail.class_groups(counts)
    assert {name: int(group.sum()) for name, group in groups.items()} == {
        "many": 842,
        "medium": 4076,
        "few": 3224,
    }


def test_a_replica_with_all_classes_converts_verifies_and_trains(tmp_path):
    counts = np.maximum(1, inat2018_profile() // 100)
    replica = inat2018(dict(enumerate(counts.tolist())))
    shards = tmp_path / "shards"
    manifest = fasticcl.convert("inat2018", replica.write(tmp_path / "src"), shards)
    assert manifest.splits["train"].class_counts == counts.tolist()
    assert manifest.splits["val"].class_counts == [1] * 8142
    assert stored_images(shards, "train") == replica.rows("train")
    found = fasticcl.verify(shards, decode=True)
    assert (found.images, found.problems, found.duplicates) == (counts.sum() + 8142, [], [])
    report = fasticcl.train(
        "inat2018",
        data=shards,
        project=tmp_path / "runs",
        fast_dev_run=True,
        batch_size=16,
        device="cpu",
        set={"method.encoder": "resnet8", "data.image_size": 32, "data.eval_resize": 32},
    )
    assert report.split == "val"
    for row in report.rows.values():
        assert 0 <= row["val/top1"] <= 100
    shutil.rmtree(tmp_path)  # pytest would keep 18,000 files of each of the last three runs
