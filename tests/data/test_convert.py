"""Conversion: what is kept, what is stored again, what is left out, and going on after a stop."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from pictures import encode, noise
from PIL import Image

from fasticcl.data import images
from fasticcl.data.convert import convert
from fasticcl.data.images import UnreadableImage, prepare
from fasticcl.data.shards import Shards, ShardWriter
from fasticcl.data.sources import Item, Source
from fasticcl.errors import UserError

RNG = np.random.default_rng(0)
PICTURE = noise(RNG, 48, 64)
JPEG = encode(PICTURE, quality=90)


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def files(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def source(count=20, broken=()):
    items = [
        Item(b"not an image" if i in broken else JPEG + bytes([i]), i % 2, f"{i}.jpg") for i in range(count)
    ]
    return Source("folder", ["a", "b"], {"train": items, "val": items[:4]})


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (JPEG, "jpg"),
        (encode(PICTURE, progressive=True), "jpg"),
        (encode(PICTURE.convert("L")), "jpg"),
        (encode(PICTURE, "PNG"), "png"),
        (encode(PICTURE.convert("L"), "PNG"), "png"),
        (JPEG + b"trailing bytes", "jpg"),
    ],
    ids=["jpeg", "progressive", "grey jpeg", "png", "grey png", "trailing"],
)
def test_sound_images_keep_their_bytes(content, suffix):
    image = prepare(content)
    assert (image.content, image.suffix, image.reencoded) == (content, suffix, None)
    assert (image.height, image.width) == (48, 64)


def test_a_cmyk_jpeg_is_stored_again_as_rgb_jpeg():
    image = prepare(encode(PICTURE.convert("CMYK"), quality=95))
    assert image.suffix == "jpg"
    assert image.reencoded == "JPEG of mode CMYK"
    assert np.abs(pixels(image.content) - np.asarray(PICTURE)).mean() < 8


@pytest.mark.parametrize("kind", ["WEBP", "BMP", "GIF", "TIFF"])
def test_other_formats_are_stored_losslessly(kind):
    original = encode(PICTURE, kind, **({"lossless": True} if kind == "WEBP" else {}))
    image = prepare(original)
    assert image.suffix == "png"
    assert image.reencoded == f"{kind} format"
    assert (pixels(image.content) == pixels(original)).all()


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "1"])
def test_odd_pngs_become_rgb(mode):
    original = PICTURE.convert(mode)
    image = prepare(encode(original, "PNG"))
    assert image.reencoded == f"PNG of mode {mode}"
    assert Image.open(io.BytesIO(image.content)).mode == "RGB"
    assert (pixels(image.content) == np.asarray(original.convert("RGB"))).all()


def test_sixteen_bits_are_scaled_not_clipped():
    deep = np.asarray(PICTURE.convert("L")).astype(np.uint16) * 257
    image = prepare(encode(Image.fromarray(deep), "PNG"))
    assert (pixels(image.content)[:, :, 0] == np.asarray(PICTURE.convert("L"))).all()


def test_sixteen_bits_a_channel_are_stored_as_eight():
    rows = np.zeros((48, 64, 3), dtype=">u2")
    rows[:] = np.asarray(PICTURE).astype(np.uint16) * 257
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    ]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    image = prepare(png)
    assert image.reencoded == "PNG of 16 bits"
    assert (pixels(image.content) == np.asarray(PICTURE)).all()


def test_pixels_without_a_known_range_are_refused():
    with pytest.raises(UnreadableImage, match="mode F have no known range"):
        prepare(encode(PICTURE.convert("F"), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = prepare(encode(PICTURE, quality=95, exif=exif))
    turned = {
        1: np.asarray(PICTURE),
        2: np.asarray(PICTURE)[:, ::-1],
        3: np.asarray(PICTURE)[::-1, ::-1],
        4: np.asarray(PICTURE)[::-1],
        5: np.asarray(PICTURE).transpose(1, 0, 2),
        6: np.asarray(PICTURE).transpose(1, 0, 2)[:, ::-1],
        7: np.asarray(PICTURE).transpose(1, 0, 2)[::-1, ::-1],
        8: np.asarray(PICTURE).transpose(1, 0, 2)[::-1],
    }[orientation]
    assert (image.reencoded is None) == (orientation == 1)
    assert (image.height, image.width) == turned.shape[:2]
    assert np.abs(pixels(image.content) - turned).mean() < 8
    assert Image.open(io.BytesIO(image.content)).getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html><body>404</body></html>",
        JPEG[:-2],
        JPEG[: len(JPEG) // 2],
        JPEG[:20],
        b"\x89PNG\r\n\x1a\n",
    ],
    ids=["empty", "html", "two bytes short", "half", "header", "png header"],
)
def test_unreadable_images_are_refused(content):
    with pytest.raises(UnreadableImage):
        prepare(content)


def test_a_bomb_is_refused_without_decoding(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 48 * 64 - 1)
    with pytest.raises(UnreadableImage, match="64×48 pixels are too many"):
        prepare(JPEG)


def test_the_number_of_workers_does_not_change_a_byte(tmp_path):
    convert(source(), tmp_path / "one", shard_size=3, workers=1)
    convert(source(), tmp_path / "two", shard_size=3, workers=4)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_unreadable_images_end_the_conversion_after_a_full_list(tmp_path):
    with pytest.raises(UserError, match=r"2 images cannot be read, the first is 5\.jpg .* --max-corrupt 2"):
        convert(source(broken=(5, 17)), tmp_path, shard_size=5)
    listed = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert [entry["image"] for entry in listed] == ["5.jpg", "17.jpg"]
    assert not (tmp_path / "manifest.json").exists()


def test_a_file_that_cannot_be_opened_is_listed_too(tmp_path):
    items = [Item(JPEG, 0, "a.jpg"), Item(JPEG, 1, "b.jpg"), Item(tmp_path, 1, "folder.jpg")]
    manifest = convert(
        Source("folder", ["a", "b"], {"train": items, "val": items[:1]}), tmp_path / "shards", max_corrupt=1
    )
    assert manifest.quarantined == 1
    assert json.loads((tmp_path / "shards" / "quarantine.jsonl").read_text())["reason"] == "Is a directory"


def test_accepted_unreadable_images_are_left_out(tmp_path):
    manifest = convert(source(broken=(5, 17)), tmp_path, shard_size=5, max_corrupt=2)
    assert manifest.quarantined == 2
    assert manifest.splits["train"].class_counts == [10, 8]
    assert len(Shards(tmp_path, "train")) == 18


def test_a_class_that_loses_all_its_images_is_an_error(tmp_path):
    items = [Item(JPEG, 0, "a.jpg"), Item(b"broken", 1, "b.jpg")]
    with pytest.raises(UserError, match="No training image of the class 'two'"):
        convert(Source("folder", ["one", "two"], {"train": items, "val": items[:1]}), tmp_path, max_corrupt=1)


@pytest.mark.parametrize("images_before_the_stop", [0, 1, 7, 13, 23])
def test_a_stopped_conversion_goes_on_and_ends_with_the_same_bytes(tmp_path, images_before_the_stop):
    convert(source(), tmp_path / "undisturbed", shard_size=3)
    left = images_before_the_stop
    stopped = tmp_path / "stopped"

    def stop(images, _):
        nonlocal left
        left -= images
        if left < 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source(), stopped, shard_size=3, workers=1, report=stop)
    assert not (stopped / "manifest.json").exists()
    assert not list(stopped.rglob("*.tar.part"))
    convert(source(), stopped, shard_size=3)
    assert files(stopped) == files(tmp_path / "undisturbed")


def test_going_on_does_not_repeat_finished_shards(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="cannot be read"):
        convert(source(broken=(19,)), tmp_path, shard_size=5)
    written = []
    add = ShardWriter.add
    monkeypatch.setattr(
        ShardWriter, "add", lambda self, key, *rest: written.append(key) or add(self, key, *rest)
    )
    convert(source(), tmp_path, shard_size=5)
    assert sorted(written) == [f"{i:09d}_{i}" for i in range(15, 20)]  # only the shard with the mended image


def test_a_finished_conversion_is_left_alone(tmp_path):
    convert(source(), tmp_path, shard_size=5)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    convert(source(), tmp_path, shard_size=5)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_shards_of_something_else_are_not_overwritten(tmp_path):
    convert(source(), tmp_path)
    before = files(tmp_path)
    with pytest.raises(UserError, match="already holds shards of another source"):
        convert(source(count=12), tmp_path)
    assert files(tmp_path) == before


def test_shards_of_an_unfinished_conversion_with_other_settings_do_not_stay(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        convert(source(broken=(19,)), tmp_path / "shards", shard_size=3)
    convert(source(), tmp_path / "shards", shard_size=50)
    convert(source(), tmp_path / "fresh", shard_size=50)
    assert files(tmp_path / "shards") == files(tmp_path / "fresh")


def test_a_split_without_a_readable_image_is_an_error(tmp_path):
    items = [Item(JPEG, 0, "a.jpg"), Item(JPEG, 1, "b.jpg")]
    val = [Item(b"broken", 0, "c.jpg")]
    with pytest.raises(UserError, match="No image of val/ can be read"):
        convert(Source("folder", ["a", "b"], {"train": items, "val": val}), tmp_path, max_corrupt=1)


def test_a_folder_of_other_things_is_not_written_into(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(JPEG)
    with pytest.raises(UserError, match="holds other files; choose an empty folder or a new one"):
        convert(source(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_progress_counts_every_image(tmp_path):
    told = []
    convert(source(), tmp_path, shard_size=7, report=lambda images, total: told.append((images, total)))
    assert sum(images for images, _ in told) == 24
    assert {total for _, total in told} == {24}


def test_a_destination_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"Cannot write .*file.*then give the same command"):
        convert(source(), tmp_path / "file" / "shards")
