"""Jobs of a conversion, their division among processes, and fingerprints of their images."""

import dataclasses
import os
import shutil

import pytest

import fasticcl
from fasticcl.convert.jobs import Cancelled, Conversion
from fasticcl.convert.layouts import folder
from tests.support.files import file_contents, modify_later
from tests.support.image_sources import jpeg_source, write_image_folder


def test_copies_of_a_dataset_give_the_same_bytes_at_any_modification_time(tmp_path):
    write_image_folder(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "elsewhere" / "two", copy_function=shutil.copy)
    for number, path in enumerate(sorted((tmp_path / "elsewhere").rglob("*.jpg"))):
        os.utime(path, (1_000_000_000 - number, 1_000_000_000 - number))
    fasticcl.convert("folder", tmp_path / "one", tmp_path / "shards1", shard_size=3)
    fasticcl.convert("folder", tmp_path / "elsewhere" / "two", tmp_path / "shards2", shard_size=3)
    assert file_contents(tmp_path / "shards1") == file_contents(tmp_path / "shards2")


def conversion(source, dest, **options):
    defaults = {"shard_size": 3, "shrink": None, "workers": 1, "rank": 0, "world_size": 1, "report": None}
    return Conversion(source, dest, **{**defaults, **options})


def test_jobs_cover_every_image_of_every_split_in_order(tmp_path):
    source = jpeg_source(count=8)
    jobs = list(conversion(source, tmp_path).jobs())
    assert [(job.split, job.number, job.first) for job in jobs] == [
        ("train", 0, 0),
        ("train", 1, 3),
        ("train", 2, 6),
        ("val", 0, 0),
        ("val", 1, 3),
    ]
    for split, items in source.splits.items():
        assert [item for job in jobs if job.split == split for item in job.items] == list(items)


def test_each_shard_is_assigned_to_exactly_one_process(tmp_path):
    ranks = [conversion(jpeg_source(), tmp_path, rank=rank, world_size=3) for rank in range(3)]
    for number in range(10):
        assert sum(rank.is_assigned(number) for rank in ranks) == 1


def test_modification_time_changes_the_stamp_and_not_the_identity(tmp_path):
    images = write_image_folder(tmp_path / "images")
    job, *_ = conversion(folder.read(images), tmp_path).jobs()
    before = conversion(folder.read(images), tmp_path).fingerprint(job)
    modify_later(job.items[0].content)
    after = conversion(folder.read(images), tmp_path).fingerprint(job)
    assert after.identity == before.identity
    assert after.stamp != before.stamp
    assert after.modified > before.modified


@pytest.mark.parametrize("change", ["dataset", "classes", "settings"])
def test_dataset_classes_and_settings_change_the_source_digest(tmp_path, change):
    values = {"dataset": "other", "classes": ["a", "c"], "settings": {"limit": 3}}
    source = jpeg_source()
    other = dataclasses.replace(source, **{change: values[change]})
    digests = []
    for dataset in (source, other):
        whole = conversion(dataset, tmp_path)
        digests.append(whole.source_sha256(map(whole.fingerprint, whole.jobs())))
    assert digests[0] != digests[1]


def test_a_cancelled_conversion_raises_at_the_next_report(tmp_path):
    counts = []
    whole = conversion(jpeg_source(), tmp_path, report=lambda images, total: counts.append((images, total)))
    whole.report_progress(2)
    whole.cancelled.set()
    with pytest.raises(Cancelled):
        whole.report_progress(1)
    assert counts == [(2, 24)]
