"""Shards of arbitrary samples, read back with fasticcl, ``tarfile``, WebDataset and DALI."""

import gc
import hashlib
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fasticcl.files import file_sha256
from fasticcl.shards.manifest import Manifest, SplitInfo
from fasticcl.shards.reader import Shards
from fasticcl.shards.writer import ShardWriter, member_key

CLASSES = 5


SAMPLES = st.lists(
    st.tuples(
        st.text(max_size=80),
        st.sampled_from(["jpg", "png"]),
        st.binary(min_size=1, max_size=1500),
        st.integers(0, CLASSES - 1),
        st.integers(1, 2**32 - 1),
        st.integers(1, 2**32 - 1),
    ),
    min_size=1,
    max_size=12,
)


def write(folder, samples, shard_size):
    """Write samples with `ShardWriter`, and the index and the manifest."""
    (folder / "train").mkdir(parents=True)
    infos, rows = [], []
    for number, first in enumerate(range(0, len(samples), shard_size)):
        writer = ShardWriter(folder / "train", number)
        for position, (name, suffix, content, label, height, width) in enumerate(
            samples[first:][:shard_size]
        ):
            writer.add(member_key(first + position, name), suffix, content, label, height, width)
        info, some = writer.close()
        infos.append(info)
        rows.append(some)
    index = np.concatenate(rows)
    np.save(folder / "train" / "index.npy", index[np.argsort(index["label"], kind="stable")])
    split = SplitInfo(
        class_counts=np.bincount(index["label"], minlength=CLASSES).tolist(),
        shards=infos,
        index_sha256=file_sha256(folder / "train" / "index.npy"),
    )
    (folder / "quarantine.jsonl").write_bytes(b"")
    Manifest(
        dataset="folder",
        classes=[str(label) for label in range(CLASSES)],
        splits={"train": split},
        settings={},
        source_sha256="",
        reencoded={},
        quarantined=0,
        quarantine_sha256=hashlib.sha256(b"").hexdigest(),
    ).write(folder)
    return infos


@pytest.fixture
def new_folder(tmp_path):
    """A function that returns a new folder for each example."""
    numbers = iter(range(10**6))
    return lambda: tmp_path / str(next(numbers))


fixed = settings(
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@given(samples=SAMPLES, shard_size=st.integers(1, 5))
@fixed
def test_any_bytes_under_any_name_are_read_back_from_shards_and_tars(new_folder, samples, shard_size):
    folder = new_folder()
    infos = write(folder, samples, shard_size)
    shards = Shards(folder, "train")
    by_class = sorted(samples, key=lambda sample: sample[3])
    images = shards.read(np.arange(len(shards)))
    assert [image.tobytes() for image in images] == [sample[2] for sample in by_class]
    for field, value in (("label", 3), ("height", 4), ("width", 5)):
        assert shards.index[field].tolist() == [sample[value] for sample in by_class]
    assert shards.counts.tolist() == [[s[3] for s in samples].count(label) for label in range(CLASSES)]
    read = []
    for info in infos:
        content = (folder / "train" / info.name).read_bytes()
        assert (info.bytes, info.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        with tarfile.open(folder / "train" / info.name) as tar:
            members = [(member.name, tar.extractfile(member).read()) for member in tar]
        assert len(members) == 2 * info.images
        read += members
    expected = []
    for position, (name, suffix, content, label, *_) in enumerate(samples):
        key = member_key(position, name)
        expected += [(f"{key}.{suffix}", content), (f"{key}.cls", str(label).encode())]
    assert read == expected


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@given(samples=SAMPLES, shard_size=st.integers(1, 5))
@settings(fixed, max_examples=8)
def test_any_bytes_under_any_name_are_read_back_by_webdataset(new_folder, samples, shard_size):
    folder = new_folder()
    infos = write(folder, samples, shard_size)
    urls = [str(folder / "train" / info.name) for info in infos]
    read = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [
        (sample["__key__"], sample[suffix], int(sample["cls"]))
        for sample, (_, suffix, *_) in zip(read, samples, strict=True)
    ] == [(member_key(position, s[0]), s[2], s[3]) for position, s in enumerate(samples)]
    gc.collect()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_index_of_any_bytes_equals_that_of_wds2idx(tmp_path, seed):
    rng = np.random.default_rng(seed)
    samples = [
        (f"{i} ü.x", ["jpg", "png"][i % 2], rng.bytes(int(rng.integers(1, 3000))), i % CLASSES, 1, 1)
        for i in range(int(rng.integers(1, 40)))
    ]
    write(tmp_path, samples, 100)
    tool = Path(sys.executable).parent / "wds2idx"
    tar = tmp_path / "train" / "shard-000000.tar"
    subprocess.run([tool, tar, tmp_path / "idx"], check=True, capture_output=True)
    assert tar.with_suffix(".idx").read_text() == (tmp_path / "idx").read_text()


def test_the_same_images_give_the_same_bytes(tmp_path):
    samples = [(f"{i}.jpg", "jpg", bytes([i]) * 700, i % CLASSES, 8, 9) for i in range(7)]
    for name in ("one", "two"):
        write(tmp_path / name, samples, 3)
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_shard_is_visible_only_after_it_is_closed(tmp_path):
    writer = ShardWriter(tmp_path, 3)
    for i in range(50):
        writer.add(member_key(i, "x.jpg"), "jpg", bytes(5000), 0, 1, 1)
    assert {path.suffix for path in tmp_path.iterdir()} == {".part"}
    writer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard-000003.idx", "shard-000003.tar"]


def test_an_abandoned_shard_leaves_no_files(tmp_path):
    writer = ShardWriter(tmp_path, 0)
    writer.add("000000000_x", "jpg", b"content", 0, 1, 1)
    writer.abandon()
    assert not list(tmp_path.iterdir())


NAMES = st.lists(st.tuples(st.integers(0, 10**9 - 1), st.text(max_size=300)), unique_by=lambda pair: pair[0])


@given(NAMES)
@example([(3, "train/a b/x.y.JPEG"), (123, "train/k/" + "ä" * 300 + ".jpg"), (4, ""), (5, "/"), (6, ".jpg")])
@settings(fixed, max_examples=100)
def test_keys_of_any_file_names_are_unique_short_and_sorted(names):
    names.sort(key=lambda pair: pair[0])
    keys = [member_key(*pair) for pair in names]
    assert keys == sorted(set(keys))
    for key in keys:
        assert re.fullmatch(r"[0-9]{9}_[A-Za-z0-9_-]{0,60}", key)


def test_keys_contain_the_name_of_the_source_file():
    assert member_key(3, "train/a b/x.y.JPEG") == "000000003_x_y"
