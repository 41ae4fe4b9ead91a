"""Conversion directly from an archive: order, compression, interruptions and damaged archives."""

import dataclasses
import gzip
import io
import json
import tarfile
import tracemalloc

import numpy as np
import pytest

import fasticcl
from fasticcl.convert import archive as archive_module
from fasticcl.convert.conversion import convert
from fasticcl.convert.source import ItemList, Source, list_files
from fasticcl.errors import UserError
from tests.support.files import file_contents, modification_times, modify_later
from tests.support.image_sources import stored_images
from tests.support.images import jpegs

COUNT, VAL = 23, 5
CONTENTS = dict(zip((f"images/{i:03d}.jpg" for i in range(COUNT)), jpegs(COUNT, seed=4), strict=True))
NAMES = list(CONTENTS)
ORDER = np.random.default_rng(5).permutation(COUNT)  # order of the members; the dataset is sorted by name
KINDS = ["plain", "gzip", "gzip in pieces"]


def write(path, members, kind="plain"):
    """Write a tar, compressed as a whole or in pieces as parallel compressors do."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    content = buffer.getvalue()
    if kind != "plain":
        length = 7_000 if kind == "gzip in pieces" else len(content)
        pieces = [content[i : i + length] for i in range(0, len(content), length)]
        content = b"".join(gzip.compress(piece, mtime=0) for piece in pieces)
    path.write_bytes(content)
    return path


def shuffled():
    return [(NAMES[i], CONTENTS[NAMES[i]]) for i in ORDER]


def item_list(names):
    return ItemList(names, [int(name[7:10]) % 2 for name in names], lambda _, name: name)


def source(path, names=NAMES):
    """Return a source in an archive whose last images are the split val."""
    splits = {"train": item_list(names[:-VAL]), "val": item_list(names[-VAL:])}
    return Source("folder", ["even", "odd"], splits, archive=path)


def without_manifest(folder):
    return {name: content for name, content in file_contents(folder).items() if name != "manifest.json"}


@pytest.mark.parametrize("kind", KINDS)
def test_archives_of_any_compression_are_indexed_in_the_order_of_the_dataset(tmp_path, kind):
    path = write(tmp_path / "images.tar.gz", shuffled(), kind)
    convert(source(path), tmp_path / "shards", shard_size=4)
    for split, names in (("train", NAMES[:-VAL]), ("val", NAMES[-VAL:])):
        expected = sorted((int(name[7:10]) % 2, name) for name in names)
        assert stored_images(tmp_path / "shards", split) == [
            (label, CONTENTS[name]) for label, name in expected
        ]
    assert not fasticcl.verify(tmp_path / "shards", decode=True).problems


def test_the_compression_does_not_change_a_shard(tmp_path):
    contents = []
    for kind in KINDS:
        path = write(tmp_path / "images.tar.gz", shuffled(), kind)
        convert(source(path), tmp_path / kind, shard_size=4)
        contents.append(without_manifest(tmp_path / kind))
    assert all(content == contents[0] for content in contents)


def test_the_index_equals_that_of_the_unpacked_images(tmp_path):
    path = write(tmp_path / "images.tar.gz", shuffled(), "gzip")
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    unpacked = dataclasses.replace(
        source(path),
        archive=None,
        splits={
            split: list_files(tmp_path / "unpacked", [item.name for item in items], items.labels)
            for split, items in source(path).splits.items()
        },
    )
    convert(source(path), tmp_path / "packed", shard_size=4)
    convert(unpacked, tmp_path / "shards", shard_size=4)
    for split in ("train", "val"):
        assert stored_images(tmp_path / "packed", split) == stored_images(tmp_path / "shards", split)


def test_members_are_stored_in_the_order_of_the_archive(tmp_path):
    path = write(tmp_path / "images.tar", shuffled())
    convert(source(path), tmp_path / "shards", shard_size=4)
    stored = []
    for shard in sorted((tmp_path / "shards" / "train").glob("*.tar")):
        with tarfile.open(shard) as tar:
            stored += [name[10:13] for name in tar.getnames() if name.endswith(".jpg")]
    assert stored == [name[7:10] for name, _ in shuffled() if name in NAMES[:-VAL]]


def test_the_number_of_workers_does_not_change_a_byte(tmp_path):
    path = write(tmp_path / "images.tar.gz", shuffled(), "gzip")
    for workers in (1, 3):
        convert(source(path), tmp_path / str(workers), shard_size=4, workers=workers)
    assert file_contents(tmp_path / "1") == file_contents(tmp_path / "3")


def test_other_members_and_spellings_of_a_name_do_not_change_the_shards(tmp_path):
    plain = write(tmp_path / "plain.tar", shuffled())
    with tarfile.open(tmp_path / "odd.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        folder = tarfile.TarInfo("./images")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in [("./images/notes.txt", b"x"), *shuffled(), ("images/999.jpg", b"y")]:
            header = tarfile.TarInfo(name if name.startswith("./") else f"./{name}")
            header.size, header.mtime, header.pax_headers = len(content), 1.5, {"comment": "é" * 200}
            tar.addfile(header, io.BytesIO(content))
    convert(source(plain), tmp_path / "one", shard_size=4)
    convert(source(tmp_path / "odd.tar"), tmp_path / "two", shard_size=4)
    assert without_manifest(tmp_path / "one") == without_manifest(tmp_path / "two")


@pytest.mark.parametrize("images_before_stop", [0, 1, 6, 14, 22])
def test_interrupted_conversion_continues_and_gives_the_same_bytes(tmp_path, images_before_stop):
    path = write(tmp_path / "images.tar.gz", shuffled(), "gzip")
    convert(source(path), tmp_path / "uninterrupted", shard_size=4)
    left = images_before_stop
    stopped = tmp_path / "stopped"

    def stop(images, _):
        nonlocal left
        left -= images
        if left < 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source(path), stopped, shard_size=4, report=stop)
    assert not list(stopped.rglob("*.part"))
    whole = file_contents(tmp_path / "uninterrupted")
    for name, content in file_contents(stopped).items():
        assert name.startswith(".parts") or content == whole[name]
    convert(source(path), stopped, shard_size=4)
    assert file_contents(stopped) == whole


def test_continued_conversion_decodes_only_missing_shards(tmp_path, monkeypatch):
    path = write(tmp_path / "images.tar", shuffled())
    left = 12

    def stop(images, _):
        nonlocal left
        left -= images
        if left < 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source(path), tmp_path / "shards", shard_size=4, workers=1, report=stop)
    done = len(list((tmp_path / "shards").rglob("*.tar")))
    decoded, reports = [], []
    monkeypatch.setattr(
        archive_module,
        "try_prepare",
        lambda content, shrink: decoded.append(content) or try_prepare(content, shrink),
    )
    convert(
        source(path), tmp_path / "shards", shard_size=4, report=lambda *progress: reports.append(progress)
    )
    assert done >= 2
    assert len(decoded) == COUNT - 4 * done
    assert sum(images for images, _ in reports) == COUNT


try_prepare = archive_module.try_prepare


def test_finished_conversion_stays_unchanged_and_rejects_another_archive(tmp_path):
    path = write(tmp_path / "images.tar", shuffled())
    convert(source(path), tmp_path / "shards", shard_size=4)
    before = modification_times(tmp_path / "shards")
    convert(source(path), tmp_path / "shards", shard_size=4)
    modify_later(path)
    with pytest.raises(UserError, match="Images were changed after"):
        convert(source(path), tmp_path / "shards", shard_size=4)
    write(path, [*shuffled(), ("images/more.jpg", bytes(20_000))])
    with pytest.raises(UserError, match="already contains another conversion: it was made from other images"):
        convert(source(path), tmp_path / "shards", shard_size=4)
    assert modification_times(tmp_path / "shards") == before


def test_images_missing_from_the_archive_are_quarantined(tmp_path):
    path = write(tmp_path / "images.tar.gz", shuffled()[3:], "gzip")
    missing = sorted(name for name, _ in shuffled()[:3])
    with pytest.raises(UserError, match=r"3 images cannot be read, .*not in images\.tar\.gz"):
        convert(source(path), tmp_path / "shards", shard_size=4)
    manifest = convert(source(path), tmp_path / "shards", shard_size=4, max_corrupt=3)
    listed = [
        json.loads(line) for line in (tmp_path / "shards" / "quarantine.jsonl").read_text().splitlines()
    ]
    assert sorted(entry["image"] for entry in listed) == missing
    assert sum(sum(split.class_counts) for split in manifest.splits.values()) == COUNT - 3
    assert not fasticcl.verify(tmp_path / "shards").problems
    assert convert(source(path), tmp_path / "shards", shard_size=4, max_corrupt=3) == manifest


def test_unreadable_images_and_links_are_quarantined(tmp_path):
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as tar:
        for number, (name, content) in enumerate(shuffled()):
            header = tarfile.TarInfo(name)
            if number == 4:
                header.type, header.linkname = tarfile.SYMTYPE, "/etc/passwd"
                content = b""
            if number == 9:
                content = content[:-2]
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    manifest = convert(source(path), tmp_path / "shards", shard_size=4, max_corrupt=2)
    listed = (tmp_path / "shards" / "quarantine.jsonl").read_text()
    assert manifest.quarantined == 2
    for number in (4, 9):
        assert shuffled()[number][0] in listed


def test_an_image_that_two_splits_list_gives_an_error(tmp_path):
    path = write(tmp_path / "images.tar", shuffled())
    splits = {"train": item_list(NAMES), "val": item_list(NAMES[-1:])}
    with pytest.raises(UserError, match=f"lists {NAMES[-1]} more than once"):
        convert(Source("folder", ["even", "odd"], splits, archive=path), tmp_path / "shards")


def test_archive_without_the_images_gives_an_error_with_its_name(tmp_path):
    path = write(tmp_path / "images.tar", [("other/1.jpg", b"x")])
    with pytest.raises(UserError, match=r"images\.tar contains none of the listed images, such as 'images/"):
        convert(source(path), tmp_path / "shards")


def test_missing_archive_gives_an_error_with_its_name(tmp_path):
    with pytest.raises(UserError, match=r"Cannot read .*images\.tar: No such file"):
        convert(source(tmp_path / "images.tar"), tmp_path / "shards")


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>404</html>" * 100, bytes(10), gzip.compress(b"no tar" * 500, mtime=0)],
    ids=["empty", "html", "zeros", "gzip of something else"],
)
def test_a_file_that_is_not_an_archive_gives_a_clear_error(tmp_path, content):
    path = tmp_path / "images.tar.gz"
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=r"images\.tar\.gz (is damaged or truncated|contains none of the listed images)"
    ):
        convert(source(path), tmp_path / "shards")


def assert_rejected_and_continued(tmp_path, path, damaged, whole):
    """Check that a damaged archive gives an error and no partial files, and that the intact one continues."""
    intact = path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"images\.tar\.gz is damaged or truncated"):
        convert(source(path), tmp_path / "shards", shard_size=4)
    assert not list((tmp_path / "shards").rglob("*.part"))
    assert not (tmp_path / "shards" / "manifest.json").exists()
    path.write_bytes(intact)
    convert(source(path), tmp_path / "shards", shard_size=4)
    assert file_contents(tmp_path / "shards") == whole


@pytest.mark.parametrize("share", [0.1, 0.35, 0.6, 0.93])
@pytest.mark.parametrize("kind", KINDS)
def test_truncated_archive_gives_an_error_and_the_whole_one_continues(tmp_path, kind, share):
    path = write(tmp_path / "images.tar.gz", shuffled(), kind)
    content = path.read_bytes()
    convert(source(path), tmp_path / "uninterrupted", shard_size=4)
    cut = int(len(content.rstrip(b"\0")) * share)
    assert_rejected_and_continued(tmp_path, path, content[:cut], file_contents(tmp_path / "uninterrupted"))


def test_an_archive_cut_between_two_members_is_detected(tmp_path):
    path = write(tmp_path / "images.tar.gz", shuffled())
    with tarfile.open(path) as tar:
        cut = tar.getmembers()[-1].offset
    convert(source(path), tmp_path / "uninterrupted", shard_size=4)
    assert_rejected_and_continued(
        tmp_path, path, path.read_bytes()[:cut], file_contents(tmp_path / "uninterrupted")
    )


@pytest.mark.parametrize("kind", ["gzip", "gzip in pieces"])
def test_a_flipped_byte_anywhere_in_a_compressed_archive_is_detected(tmp_path, kind):
    path = write(tmp_path / "images.tar.gz", shuffled(), kind)
    content = path.read_bytes()
    header = 10  # bytes, of which gzip checks only the first
    for number, position in enumerate(np.linspace(header, len(content) - 1, 12).astype(int)):
        damaged = bytearray(content)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"images\.tar\.gz is damaged or truncated"):
            convert(source(path), tmp_path / f"shards{number}", shard_size=30)
        assert not (tmp_path / f"shards{number}" / "manifest.json").exists()


def test_flipped_bit_that_only_the_gzip_checksum_reveals_is_detected(tmp_path):
    plain = write(tmp_path / "images.tar", shuffled()).read_bytes()
    path = tmp_path / "images.tar.gz"
    path.write_bytes(gzip.compress(plain, compresslevel=0, mtime=0))
    convert(source(path), tmp_path / "uninterrupted", shard_size=4)
    damaged = bytearray(path.read_bytes())
    comment = damaged.index(b" of 4", len(damaged) // 2)  # in the comment of a JPEG, which still decodes
    damaged[comment] ^= 1
    assert_rejected_and_continued(tmp_path, path, damaged, file_contents(tmp_path / "uninterrupted"))


def test_memory_use_does_not_grow_with_the_archive(tmp_path):
    padding = np.random.default_rng(0).bytes(100_000)
    names = [f"images/{i:03d}.jpg" for i in range(200)]
    large = [(name, content + padding) for name, content in zip(names, jpegs(200), strict=True)]
    path = write(tmp_path / "images.tar", large)
    tracemalloc.start()
    convert(source(path, names), tmp_path / "shards", shard_size=90, workers=2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 20_000_000
    assert peak < 4_000_000
