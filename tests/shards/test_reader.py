"""The shard format, read with other people's tools, and what happens when it is damaged."""

import gc
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from nvidia.dali import Pipeline, fn

import fasticcl
from fasticcl.data.loader import evaluation_batches
from fasticcl.errors import TrainingFailed, UserError
from fasticcl.files import file_sha256
from fasticcl.shards.manifest import Manifest, SplitInfo
from fasticcl.shards.reader import INDEX_DTYPE, Shards
from fasticcl.shards.writer import ShardWriter, member_key


def test_the_index_finds_every_image_in_its_tar(photo_source, photo_shards):
    shards = Shards(photo_shards, "train")
    contents = {item.content: item.label for item in photo_source.splits["train"]}
    found = {}
    for row, (shard, offset, size, label, height, width, crc32) in enumerate(shards.index.tolist()):
        content = shards.read(np.array([row]))[0].tobytes()
        found[content] = label
        assert zlib.crc32(content) == crc32
        with tarfile.open(photo_shards / "train" / f"shard-{shard:06d}.tar") as tar:
            member = next(m for m in tar if m.offset_data == offset)
            assert member.size == size
            assert tar.extractfile(member.name.rsplit(".", 1)[0] + ".cls").read() == str(label).encode()
        assert min(height, width) >= 300
    assert found == contents


def test_rows_are_sorted_by_label_and_memory_mapped(photo_shards):
    shards = Shards(photo_shards, "train")
    assert isinstance(shards.index, np.memmap)
    assert shards.index.dtype == INDEX_DTYPE
    assert shards.index["label"].tolist() == [0] * 12 + [1] * 6 + [2] * 3
    assert shards.counts.tolist() == [12, 6, 3]
    assert not shards.read(np.array([0]))[0].flags.owndata  # a view, not a copy


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_them(photo_source, photo_shards):
    urls = sorted(str(path) for path in (photo_shards / "train").glob("*.tar"))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [(sample["jpg"], int(sample["cls"])) for sample in samples] == [
        (item.content, item.label) for item in photo_source.splits["train"]
    ]
    gc.collect()  # webdataset leaves its files to be closed by the collector, with a warning


def test_dalis_webdataset_reader_reads_them_with_our_index(photo_source, photo_shards):
    tars = sorted(str(path) for path in (photo_shards / "train").glob("*.tar"))
    pipeline = Pipeline(batch_size=21, num_threads=1, device_id=None)
    with pipeline:
        index = [path.replace(".tar", ".idx") for path in tars]
        pipeline.set_outputs(*fn.readers.webdataset(paths=tars, index_paths=index, ext=["jpg", "cls"]))
    pipeline.build()
    images, labels = pipeline.run()
    read = [(images.at(i).tobytes(), int(labels.at(i).tobytes())) for i in range(21)]
    assert read == [(item.content, item.label) for item in photo_source.splits["train"]]


def test_gnu_tar_reads_them(photo_shards):
    tar = photo_shards / "train" / "shard-000000.tar"
    names = subprocess.run(["tar", "tf", tar], check=True, capture_output=True, text=True).stdout.split()
    assert names[:2] == ["000000000_photo0.jpg", "000000000_photo0.cls"]
    assert len(names) == 16


@pytest.mark.parametrize("fixture", ["photo_shards", "digit_shards"])
def test_our_index_is_the_one_that_dalis_tool_writes(fixture, request, tmp_path):
    folder = request.getfixturevalue(fixture)
    for number, tar in enumerate(sorted(folder.glob("*/*.tar"))):
        written = tmp_path / f"{number}.idx"
        subprocess.run(
            [Path(sys.executable).parent / "wds2idx", tar, written], check=True, capture_output=True
        )
        assert tar.with_suffix(".idx").read_text() == written.read_text()


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
    """Write samples with the writer of shards, and what belongs beside them."""
    (folder / "train").mkdir(parents=True)
    infos, rows = [], []
    for number, first in enumerate(range(0, len(samples), shard_size)):
        writer = ShardWriter(folder / "train", number)
        for place, (name, suffix, content, label, height, width) in enumerate(samples[first:][:shard_size]):
            writer.add(member_key(first + place, name), suffix, content, label, height, width)
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
def emptied(tmp_path):
    """A folder for each example."""
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
def test_any_bytes_under_any_name_come_back_out_of_shards_and_tars(emptied, samples, shard_size):
    folder = emptied()
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
    for place, (name, suffix, content, label, *_) in enumerate(samples):
        key = member_key(place, name)
        expected += [(f"{key}.{suffix}", content), (f"{key}.cls", str(label).encode())]
    assert read == expected


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@given(samples=SAMPLES, shard_size=st.integers(1, 5))
@settings(fixed, max_examples=8)
def test_any_bytes_under_any_name_come_back_out_of_webdataset(emptied, samples, shard_size):
    folder = emptied()
    infos = write(folder, samples, shard_size)
    urls = [str(folder / "train" / info.name) for info in infos]
    read = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [
        (sample["__key__"], sample[suffix], int(sample["cls"]))
        for sample, (_, suffix, *_) in zip(read, samples, strict=True)
    ] == [(member_key(place, s[0]), s[2], s[3]) for place, s in enumerate(samples)]
    gc.collect()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_index_of_any_bytes_is_the_one_that_dalis_tool_writes(tmp_path, seed):
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


def test_nothing_of_a_shard_is_visible_before_it_is_closed(tmp_path):
    writer = ShardWriter(tmp_path, 3)
    for i in range(50):
        writer.add(member_key(i, "x.jpg"), "jpg", bytes(5000), 0, 1, 1)
    assert {path.suffix for path in tmp_path.iterdir()} == {".part"}
    writer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard-000003.idx", "shard-000003.tar"]


def test_a_shard_that_is_abandoned_leaves_nothing(tmp_path):
    writer = ShardWriter(tmp_path, 0)
    writer.add("000000000_x", "jpg", b"content", 0, 1, 1)
    writer.abandon()
    assert not list(tmp_path.iterdir())


NAMES = st.lists(st.tuples(st.integers(0, 10**9 - 1), st.text(max_size=300)), unique_by=lambda pair: pair[0])


@given(NAMES)
@example([(3, "train/a b/x.y.JPEG"), (123, "train/k/" + "ä" * 300 + ".jpg"), (4, ""), (5, "/"), (6, ".jpg")])
@settings(fixed, max_examples=100)
def test_keys_of_any_file_names_are_unique_short_and_sort_in_storage_order(names):
    names.sort(key=lambda pair: pair[0])
    keys = [member_key(*pair) for pair in names]
    assert keys == sorted(set(keys))
    for key in keys:
        assert re.fullmatch(r"[0-9]{9}_[A-Za-z0-9_-]{0,60}", key)


def test_keys_still_name_their_source():
    assert member_key(3, "train/a b/x.y.JPEG") == "000000003_x_y"


@pytest.fixture
def copied(digit_shards, tmp_path):
    return shutil.copytree(digit_shards, tmp_path / "copy")


def test_a_folder_without_shards_says_how_to_make_them(tmp_path):
    with pytest.raises(UserError, match=f"fasticcl convert folder SRC {tmp_path}"):
        Shards(tmp_path, "train")


def test_an_unknown_split_is_named(digit_shards):
    with pytest.raises(UserError, match="no split 'val', only train, test"):
        Shards(digit_shards, "val")


def test_a_cut_shard_is_noticed_at_opening(copied):
    shard = copied / "train" / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(UserError, match=r"shard-000001\.tar is missing or was changed"):
        Shards(copied, "train")


def test_a_missing_shard_is_noticed_at_opening(copied):
    (copied / "train" / "shard-000000.tar").unlink()
    with pytest.raises(UserError, match=r"shard-000000\.tar is missing"):
        Shards(copied, "train")


def test_a_newer_format_asks_for_an_update(copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(UserError, match="format 99, newer than this fasticcl"):
        Shards(copied, "train")


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format": 2}', b"\xff\xfe", b'{"format": "x"}'])
def test_a_damaged_manifest_is_named(copied, damage):
    (copied / "manifest.json").write_bytes(damage)
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        Manifest.read(copied)


def test_a_damaged_or_foreign_index_is_named(copied):
    path = copied / "train" / "index.npy"
    whole = path.read_bytes()
    for content in (b"", whole[:50], whole[:-32], b"garbage" * 100):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"index\.npy"):
            Shards(copied, "train")
    np.save(path, np.zeros(5))
    with pytest.raises(UserError, match="is missing or damaged"):
        Shards(copied, "train")


def settings_of(folder):
    """The settings of a small network's data."""
    return fasticcl.configure("folder", data=folder, set={"data.image_size": 32}).data


def flip_in_image(folder, split, row):
    """Flip a byte in the middle of an image, and return where it is said to lie."""
    place = np.load(folder / split / "index.npy")[row]
    shard = folder / split / f"shard-{place['shard']:06d}.tar"
    with open(shard, "r+b") as file:
        file.seek(int(place["offset"]) + int(place["size"]) // 2)
        [byte] = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    return f"{split}/{shard.name}:{place['offset']}"


def test_a_byte_that_flips_before_evaluation_stops_it_and_names_the_image(photo_shards, tmp_path):
    folder = shutil.copytree(photo_shards, tmp_path / "shards")
    place = flip_in_image(folder, "val", 3)
    shards = Shards(folder, "val")
    batches = evaluation_batches(shards, settings_of(folder), batch_size=2, threads=1, prefetch=1)
    with pytest.raises(TrainingFailed, match=rf"^{re.escape(place)} \S+: damaged since the conversion"):
        list(batches)
