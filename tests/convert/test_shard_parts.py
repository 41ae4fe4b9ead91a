"""Records of finished shards, which let an interrupted conversion continue."""

import json

import pytest

import fasticcl
from fasticcl.convert.conversion import convert
from fasticcl.convert.jobs import Conversion
from fasticcl.convert.shard_parts import ShardPartWriter, load_part
from fasticcl.errors import UserError
from fasticcl.shards.images import UnreadableImage, prepare
from fasticcl.shards.writer import ShardWriter
from tests.support.files import file_contents, modify_later
from tests.support.image_sources import jpeg_source, write_image_folder


def test_continued_conversion_skips_finished_shards(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="cannot be read"):
        convert(jpeg_source(broken=(19,)), tmp_path, shard_size=5)
    written = []
    add = ShardWriter.add
    monkeypatch.setattr(
        ShardWriter, "add", lambda self, key, *rest: written.append(key) or add(self, key, *rest)
    )
    convert(jpeg_source(), tmp_path, shard_size=5)
    assert sorted(written) == [f"{i:09d}_{i}" for i in range(15, 20)]  # the shard with the repaired image


def test_image_changed_during_an_interruption_is_read_again(tmp_path):
    images = write_image_folder(tmp_path / "images")
    (images / "val" / "b" / "broken.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="1 image"):
        fasticcl.convert("folder", images, tmp_path / "shards", shard_size=4)
    changed = images / "train" / "a" / "0000.jpg"
    content = changed.read_bytes()
    changed.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    modify_later(changed)
    (images / "val" / "b" / "broken.jpg").unlink()
    fasticcl.convert("folder", images, tmp_path / "shards", shard_size=4)
    fasticcl.convert("folder", images, tmp_path / "fresh", shard_size=4)
    assert file_contents(tmp_path / "shards") == file_contents(tmp_path / "fresh")


@pytest.fixture
def conversion(tmp_path):
    (tmp_path / ".parts" / "train").mkdir(parents=True)
    (tmp_path / "train").mkdir()
    return Conversion(jpeg_source(), tmp_path, 5, None, 1, 0, 1, None)


def written(conversion, job, images):
    writer = ShardPartWriter(conversion.dest, job, conversion.fingerprint(job))
    for ordinal, (item, image) in enumerate(zip(job.items, images, strict=True), start=job.first):
        writer.add(ordinal, item, image)
    return writer.close()


def test_loaded_part_equals_the_written_part(conversion):
    _, job, *_ = conversion.jobs()
    images = [prepare(item.read()) for item in job.items]
    images[2] = UnreadableImage("damaged")
    part = written(conversion, job, images)
    loaded = load_part(conversion, job, conversion.fingerprint(job))
    assert loaded == part
    assert loaded.quarantine == [{"image": "7.jpg", "reason": "damaged"}]
    assert loaded.rows()["ordinal"].tolist() == [5, 6, 8, 9]
    assert loaded.rows()["row"]["label"].tolist() == [1, 0, 0, 1]


def test_a_part_without_readable_images_has_no_shard(conversion):
    job, *_ = conversion.jobs()
    part = written(conversion, job, [UnreadableImage("damaged")] * 5)
    assert part.info is None
    assert len(part.rows()) == 0
    assert not list((conversion.dest / "train").iterdir())
    assert load_part(conversion, job, conversion.fingerprint(job)) == part


@pytest.mark.parametrize("damage", ["missing shard", "shorter shard", "other stamp", "missing part"])
def test_a_part_that_does_not_match_its_shard_is_ignored(conversion, damage):
    job, *_ = conversion.jobs()
    part = written(conversion, job, [prepare(item.read()) for item in job.items])
    shard = conversion.dest / "train" / part.info.name
    if damage == "missing shard":
        shard.unlink()
    elif damage == "shorter shard":
        shard.write_bytes(shard.read_bytes()[:-512])
    elif damage == "other stamp":
        part.path.write_text(json.dumps(json.loads(part.path.read_text()) | {"stamp": "other"}))
    else:
        part.path.unlink()
    assert load_part(conversion, job, conversion.fingerprint(job)) is None
