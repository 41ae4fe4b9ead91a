"""Shards read with fasticcl and other tools, and the errors for damaged shards."""

import gc
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
from nvidia.dali import Pipeline, fn

import fasticcl
from fasticcl.data.evaluation_loader import evaluation_batches
from fasticcl.errors import TrainingFailed, UserError
from fasticcl.shards.reader import INDEX_DTYPE, Shards


def test_index_locates_every_image_in_its_tar(photo_source, photo_shards):
    shards = Shards(photo_shards, "train")
    contents = {item.content: item.label for item in photo_source.splits["train"]}
    stored = {}
    for row, (shard, offset, size, label, height, width, crc32) in enumerate(shards.index.tolist()):
        content = shards.read(np.array([row]))[0].tobytes()
        stored[content] = label
        assert zlib.crc32(content) == crc32
        with tarfile.open(photo_shards / "train" / f"shard-{shard:06d}.tar") as tar:
            member = next(m for m in tar if m.offset_data == offset)
            assert member.size == size
            assert tar.extractfile(member.name.rsplit(".", 1)[0] + ".cls").read() == str(label).encode()
        assert min(height, width) >= 300
    assert stored == contents


def test_rows_are_sorted_by_label_and_memory_mapped(photo_shards):
    shards = Shards(photo_shards, "train")
    assert isinstance(shards.index, np.memmap)
    assert shards.index.dtype == INDEX_DTYPE
    assert shards.index["label"].tolist() == [0] * 12 + [1] * 6 + [2] * 3
    assert shards.counts.tolist() == [12, 6, 3]
    assert not shards.read(np.array([0]))[0].flags.owndata  # a view, not a copy


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_shards(photo_source, photo_shards):
    urls = sorted(str(path) for path in (photo_shards / "train").glob("*.tar"))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [(sample["jpg"], int(sample["cls"])) for sample in samples] == [
        (item.content, item.label) for item in photo_source.splits["train"]
    ]
    gc.collect()  # webdataset leaves files open, and the garbage collector closes them with a warning


def test_dali_reads_the_shards_with_our_index(photo_source, photo_shards):
    tars = sorted(str(path) for path in (photo_shards / "train").glob("*.tar"))
    pipeline = Pipeline(batch_size=21, num_threads=1, device_id=None)
    with pipeline:
        index = [path.replace(".tar", ".idx") for path in tars]
        pipeline.set_outputs(*fn.readers.webdataset(paths=tars, index_paths=index, ext=["jpg", "cls"]))
    pipeline.build()
    images, labels = pipeline.run()
    read = [(images.at(i).tobytes(), int(labels.at(i).tobytes())) for i in range(21)]
    assert read == [(item.content, item.label) for item in photo_source.splits["train"]]


def test_gnu_tar_reads_the_shards(photo_shards):
    tar = photo_shards / "train" / "shard-000000.tar"
    names = subprocess.run(["tar", "tf", tar], check=True, capture_output=True, text=True).stdout.split()
    assert names[:2] == ["000000000_photo0.jpg", "000000000_photo0.cls"]
    assert len(names) == 16


@pytest.mark.parametrize("fixture", ["photo_shards", "digit_shards"])
def test_index_equals_that_of_the_dali_tool(fixture, request, tmp_path):
    folder = request.getfixturevalue(fixture)
    for number, tar in enumerate(sorted(folder.glob("*/*.tar"))):
        written = tmp_path / f"{number}.idx"
        subprocess.run(
            [Path(sys.executable).parent / "wds2idx", tar, written], check=True, capture_output=True
        )
        assert tar.with_suffix(".idx").read_text() == written.read_text()


@pytest.fixture
def shards_copy(digit_shards, tmp_path):
    return shutil.copytree(digit_shards, tmp_path / "copy")


def test_error_without_shards_names_the_command(tmp_path):
    with pytest.raises(UserError, match=f"fasticcl convert folder SRC {tmp_path}"):
        Shards(tmp_path, "train")


def test_unknown_split_gives_an_error_with_the_known_splits(digit_shards):
    with pytest.raises(UserError, match="no split 'val', only train, test"):
        Shards(digit_shards, "val")


def test_truncated_shard_is_rejected(shards_copy):
    shard = shards_copy / "train" / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(UserError, match=r"shard-000001\.tar is missing or was changed"):
        Shards(shards_copy, "train")


def test_missing_shard_is_rejected(shards_copy):
    (shards_copy / "train" / "shard-000000.tar").unlink()
    with pytest.raises(UserError, match=r"shard-000000\.tar is missing"):
        Shards(shards_copy, "train")


def test_damaged_or_foreign_index_is_reported_by_name(shards_copy):
    path = shards_copy / "train" / "index.npy"
    whole = path.read_bytes()
    for content in (b"", whole[:50], whole[:-32], b"garbage" * 100):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"index\.npy"):
            Shards(shards_copy, "train")
    np.save(path, np.zeros(5))
    with pytest.raises(UserError, match="is missing or damaged"):
        Shards(shards_copy, "train")


def settings_of(folder):
    """Return the data settings of a small network."""
    return fasticcl.configure("folder", data=folder, set={"data.image_size": 32}).data


def flip_in_image(folder, split, row):
    """Flip a byte in the middle of an image, and return the location of the image."""
    entry = np.load(folder / split / "index.npy")[row]
    shard = folder / split / f"shard-{entry['shard']:06d}.tar"
    with open(shard, "r+b") as file:
        file.seek(int(entry["offset"]) + int(entry["size"]) // 2)
        [byte] = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    return f"{split}/{shard.name}:{entry['offset']}"


def test_changed_byte_stops_evaluation_with_the_name_of_the_image(photo_shards, tmp_path):
    folder = shutil.copytree(photo_shards, tmp_path / "shards")
    location = flip_in_image(folder, "val", 3)
    shards = Shards(folder, "val")
    batches = evaluation_batches(shards, settings_of(folder), batch_size=2, threads=1, prefetch=1)
    with pytest.raises(TrainingFailed, match=rf"^{re.escape(location)} \S+: damaged since the conversion"):
        list(batches)
