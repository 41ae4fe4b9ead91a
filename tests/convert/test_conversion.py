"""Conversion: the same bytes every time, what is left out, going on after a stop, full and locked disks."""

import errno
import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

import fasticcl
from fasticcl.convert.conversion import convert
from fasticcl.convert.source import Item, Source
from fasticcl.errors import UserError
from fasticcl.shards.manifest import Manifest
from fasticcl.shards.reader import Shards
from fasticcl.shards.shrink import Shrink
from fasticcl.shards.writer import ShardWriter
from tests.support.children import started
from tests.support.images import encode, noise
from tests.support.trees import UNPRIVILEGED, command, lay_out, run, tree

PICTURE = noise(np.random.default_rng(0), 48, 64)
JPEG = encode(PICTURE, quality=90)


def source(count=20, broken=(), splits=("train", "val")):
    items = [
        Item(b"not an image" if i in broken else JPEG + bytes([i]), i % 2, f"{i}.jpg") for i in range(count)
    ]
    return Source("folder", ["a", "b"], dict(zip(splits, (items, items[:4]), strict=True)))


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def later(path):
    """Give a file a change time after everything that was written so far."""
    os.utime(path, ns=(time.time_ns() + 10**9,) * 2)


def test_the_number_of_workers_does_not_change_a_byte(tmp_path):
    for workers in (1, 2, 7):
        convert(source(), tmp_path / str(workers), shard_size=3, workers=workers)
    assert tree(tmp_path / "1") == tree(tmp_path / "2") == tree(tmp_path / "7")


def test_copies_of_a_dataset_give_the_same_bytes_whatever_their_times(tmp_path):
    lay_out(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "elsewhere" / "two", copy_function=shutil.copy)
    for number, path in enumerate(sorted((tmp_path / "elsewhere").rglob("*.jpg"))):
        os.utime(path, (1_000_000_000 - number, 1_000_000_000 - number))
    fasticcl.convert("folder", tmp_path / "one", tmp_path / "shards1", shard_size=3)
    fasticcl.convert("folder", tmp_path / "elsewhere" / "two", tmp_path / "shards2", shard_size=3)
    assert tree(tmp_path / "shards1") == tree(tmp_path / "shards2")


def test_what_an_image_is_decides_its_content_and_not_its_name(tmp_path):
    contents = {"a.JPEG": encode(PICTURE, "PNG"), "b.png": JPEG, "c.jpg": encode(PICTURE, "BMP")}
    items = [Item(content, 0, name) for name, content in contents.items()]
    manifest = convert(Source("folder", ["x"], {"train": items, "val": items[:1]}), tmp_path)
    shards = Shards(tmp_path, "train")
    assert [image.tobytes() for image in shards.read(np.arange(2))] == [contents["a.JPEG"], JPEG]
    idx = (tmp_path / "train" / "shard-000000.idx").read_text().splitlines()[1:]
    assert [line.split()[0] for line in idx] == ["png", "jpg", "png"]
    assert manifest.reencoded == {"BMP format": 1}


def test_the_manifest_counts_what_was_stored_again_by_reason_over_all_shards(tmp_path):
    kinds = [JPEG, encode(PICTURE.convert("CMYK"), quality=90), encode(PICTURE, "GIF")]
    items = [Item(kinds[i % 3], i % 2, f"{i}.jpg") for i in range(12)]
    manifest = convert(
        Source("folder", ["a", "b"], {"train": items, "val": items[:5]}), tmp_path, shard_size=4
    )
    assert manifest.reencoded == {"JPEG of mode CMYK": 6, "GIF format": 5}


def test_unreadable_images_end_the_conversion_after_a_full_list(tmp_path):
    with pytest.raises(UserError, match=r"2 images cannot be read, the first is 5\.jpg .* --max-corrupt 2"):
        convert(source(broken=(5, 17)), tmp_path, shard_size=5)
    listed = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert [entry["image"] for entry in listed] == ["5.jpg", "17.jpg"]
    assert {entry["reason"] for entry in listed} == {"not an image"}
    assert not (tmp_path / "manifest.json").exists()


def test_the_command_that_the_list_suggests_goes_on_and_ends(tmp_path):
    with pytest.raises(UserError):
        convert(source(broken=(5, 17)), tmp_path / "one", shard_size=5)
    convert(source(broken=(5, 17)), tmp_path / "one", shard_size=5, max_corrupt=2)
    convert(source(broken=(5, 17)), tmp_path / "two", shard_size=5, max_corrupt=9)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_a_file_that_cannot_be_opened_is_listed_too(tmp_path):
    items = [
        Item(JPEG, 0, "a.jpg"),
        Item(JPEG, 1, "b.jpg"),
        Item(tmp_path, 1, "folder.jpg"),
        Item(tmp_path / "nowhere", 1, "nowhere.jpg"),
    ]
    whole = Source("folder", ["a", "b"], {"train": items, "val": items[:1]})
    manifest = convert(whole, tmp_path / "shards", max_corrupt=2)
    assert manifest.quarantined == 2
    listed = (tmp_path / "shards" / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in listed] == ["Is a directory", "No such file or directory"]


def test_a_name_that_is_no_text_is_listed_and_stored(tmp_path):
    odd = os.fsdecode(b"\xff\xfe caf\xc3\xa9.jpg")
    items = [Item(JPEG, 0, odd), Item(b"broken", 0, odd)]
    convert(Source("folder", ["a"], {"train": items, "val": items[:1]}), tmp_path, max_corrupt=1)
    assert json.loads((tmp_path / "quarantine.jsonl").read_bytes())["image"].endswith("café.jpg")
    assert not fasticcl.verify(tmp_path).problems


def test_accepted_unreadable_images_are_left_out(tmp_path):
    manifest = convert(source(broken=(5, 17)), tmp_path, shard_size=5, max_corrupt=2)
    assert manifest.quarantined == 2
    assert manifest.splits["train"].class_counts == [10, 8]
    assert len(Shards(tmp_path, "train")) == 18


def test_a_shard_of_unreadable_images_is_left_out(tmp_path):
    manifest = convert(source(broken=(5, 6, 7, 8, 9)), tmp_path, shard_size=5, max_corrupt=5)
    assert [shard.name for shard in manifest.splits["train"].shards] == [
        "shard-000000.tar",
        "shard-000002.tar",
        "shard-000003.tar",
    ]
    assert not fasticcl.verify(tmp_path, decode=True).problems


def test_a_class_that_loses_all_its_images_is_an_error(tmp_path):
    items = [Item(JPEG, 0, "a.jpg"), Item(b"broken", 1, "b.jpg")]
    with pytest.raises(UserError, match="No training image of the class 'two'"):
        convert(Source("folder", ["one", "two"], {"train": items, "val": items[:1]}), tmp_path, max_corrupt=1)


def test_a_split_without_a_readable_image_is_an_error(tmp_path):
    items = [Item(JPEG, 0, "a.jpg"), Item(JPEG, 1, "b.jpg")]
    val = [Item(b"broken", 0, "c.jpg")]
    with pytest.raises(UserError, match="No image of val/ can be read"):
        convert(Source("folder", ["a", "b"], {"train": items, "val": val}), tmp_path, max_corrupt=1)


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
    assert not list(stopped.rglob("*.part"))
    convert(source(), stopped, shard_size=3)
    assert tree(stopped) == tree(tmp_path / "undisturbed")


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


def test_an_image_that_changes_while_a_conversion_is_stopped_is_read_again(tmp_path):
    images = lay_out(tmp_path / "images")
    (images / "val" / "b" / "broken.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="1 image"):
        fasticcl.convert("folder", images, tmp_path / "shards", shard_size=4)
    changed = images / "train" / "a" / "0000.jpg"
    content = changed.read_bytes()
    changed.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    later(changed)
    (images / "val" / "b" / "broken.jpg").unlink()
    fasticcl.convert("folder", images, tmp_path / "shards", shard_size=4)
    fasticcl.convert("folder", images, tmp_path / "fresh", shard_size=4)
    assert tree(tmp_path / "shards") == tree(tmp_path / "fresh")


@pytest.mark.parametrize("kind", ["bytes", "files"])
def test_a_finished_conversion_is_left_alone(tmp_path, kind):
    images = lay_out(tmp_path / "images")

    def again():
        if kind == "bytes":
            return convert(source(), tmp_path / "shards", shard_size=5)
        return fasticcl.convert("folder", images, tmp_path / "shards", shard_size=5)

    first = again()
    before = times(tmp_path / "shards")
    assert again() == first
    assert times(tmp_path / "shards") == before


SHORT, LONG = Shrink("short", 40, 90), Shrink("long", 40, 90)


@pytest.mark.parametrize(
    ("made", "wanted", "difference"),
    [
        ({}, {"shard_size": 4}, "with --shard-size 5"),
        ({}, {"shrink": SHORT}, "without --short-side and without --quality"),
        ({"shrink": SHORT}, {}, "with --short-side 40 and with --quality 90"),
        ({"shrink": SHORT}, {"shrink": LONG}, "with --short-side 40 and without --max-side"),
        ({"shrink": SHORT}, {"shrink": Shrink("short", 40, 91)}, "with --quality 90"),
    ],
    ids=["shard size", "short side", "no short side", "long side", "quality"],
)
def test_other_settings_are_named_and_refused_and_nothing_is_lost(tmp_path, made, wanted, difference):
    convert(source(), tmp_path, **{"shard_size": 5, **made})
    before = tree(tmp_path), times(tmp_path)
    with pytest.raises(UserError, match=f"already contains another conversion: it was made {difference}\\."):
        convert(source(), tmp_path, **{"shard_size": 5, **wanted})
    assert (tree(tmp_path), times(tmp_path)) == before


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (source(count=12), "was made of other images"),
        (source(splits=("train", "test")), "was made of other images"),
        (Source("inat2018", ["a", "b"], source().splits), "is of folder"),
        (Source("folder", ["a", "c"], source().splits), "has other classes"),
        (
            Source("folder", ["a", "b"], {**source().splits, "val": source().splits["train"][1:5]}),
            "was made of other images",
        ),
    ],
    ids=["fewer images", "other split", "other dataset", "other class name", "other images"],
)
def test_shards_of_something_else_are_not_overwritten(tmp_path, other, difference):
    convert(source(), tmp_path)
    before = tree(tmp_path)
    with pytest.raises(UserError, match=f"already contains another conversion: it {difference}\\. Choose"):
        convert(other, tmp_path)
    assert tree(tmp_path) == before


def test_an_image_that_changed_after_the_conversion_is_noticed_at_the_same_size(tmp_path):
    images = lay_out(tmp_path / "images")
    fasticcl.convert("folder", images, tmp_path / "shards")
    before = tree(tmp_path / "shards")
    changed = images / "train" / "a" / "0000.jpg"
    changed.write_bytes(changed.read_bytes()[:-1] + b"\0")
    later(changed)
    with pytest.raises(UserError, match=r"Images were changed after the conversion"):
        fasticcl.convert("folder", images, tmp_path / "shards")
    assert tree(tmp_path / "shards") == before


def test_an_image_that_is_gone_after_the_conversion_is_noticed(tmp_path):
    images = lay_out(tmp_path / "images")
    fasticcl.convert("folder", images, tmp_path / "shards")
    (images / "train" / "a" / "0000.jpg").unlink()
    with pytest.raises(UserError, match="already contains another conversion: it was made of other images"):
        fasticcl.convert("folder", images, tmp_path / "shards")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"shard_size": 3}, {"shard_size": 50}),
        ({"shard_size": 50}, {"shard_size": 3}),
        ({"shard_size": 3, "shrink": Shrink("short", 24, 90)}, {"shard_size": 3}),
    ],
    ids=["larger shards", "smaller shards", "not shrunk"],
)
def test_an_unfinished_conversion_with_other_settings_leaves_nothing(tmp_path, first, second):
    with pytest.raises(UserError, match="cannot be read"):
        convert(source(broken=(19,)), tmp_path / "shards", **first)
    convert(source(), tmp_path / "shards", **second)
    convert(source(), tmp_path / "fresh", **second)
    assert tree(tmp_path / "shards") == tree(tmp_path / "fresh")


def test_an_unfinished_conversion_with_another_split_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        convert(source(broken=(19,)), tmp_path / "shards", shard_size=3)
    convert(source(splits=("train", "test")), tmp_path / "shards", shard_size=3)
    convert(source(splits=("train", "test")), tmp_path / "fresh", shard_size=3)
    assert tree(tmp_path / "shards") == tree(tmp_path / "fresh")
    assert not fasticcl.verify(tmp_path / "shards").problems


def test_a_folder_of_other_things_is_not_written_into(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(JPEG)
    with pytest.raises(UserError, match=r"contains other files\. Choose an empty or new folder"):
        convert(source(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_progress_counts_every_image(tmp_path):
    told = []
    convert(source(), tmp_path, shard_size=7, report=lambda images, total: told.append((images, total)))
    assert sum(images for images, _ in told) == 24
    assert {total for _, total in told} == {24}


def test_ctrl_c_says_how_to_continue_and_the_same_command_does(tmp_path):
    images = lay_out(tmp_path / "images", train=40)
    fifo = images / "train" / "b" / "0039.jpg"
    content = fifo.read_bytes()
    fifo.unlink()
    os.mkfifo(fifo)  # the conversion waits at this image until somebody writes it
    arguments = ("convert", "folder", images, tmp_path / "shards", "--shard-size", 10, "--workers", 1)
    with started(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        with open(fifo, "wb") as writer:  # opens when the conversion does
            process.send_signal(signal.SIGINT)
            writer.write(content)
        errors = process.stderr.read()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert f"fasticcl convert folder {images} {tmp_path / 'shards'} --shard-size 10" in errors
    fifo.unlink()
    fifo.write_bytes(content)
    assert run(*arguments).returncode == 0
    assert run(*arguments[:3], tmp_path / "fresh", *arguments[4:]).returncode == 0
    assert tree(tmp_path / "shards") == tree(tmp_path / "fresh")


def test_libraries_do_not_talk_into_the_output(tmp_path):
    images = lay_out(tmp_path / "images", train=4, val=2)
    bad_exif = b"Exif\0\0MM\0*\0\0\0\x08\0\5"
    segment = b"\xff\xe1" + (len(bad_exif) + 2).to_bytes(2, "big") + bad_exif
    place = JPEG.index(b"\xff\xc0") + 5
    (images / "train" / "a" / "exif.jpg").write_bytes(JPEG[:2] + segment + JPEG[2:])
    (images / "train" / "a" / "large.jpg").write_bytes(
        JPEG[:place] + (12_000).to_bytes(2, "big") * 2 + JPEG[place + 4 :]
    )
    (images / "train" / "a" / "cut.tif").write_bytes(encode(PICTURE, "TIFF")[:-40])
    ended = run("convert", "folder", images, tmp_path / "shards", "--max-corrupt", 2)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert Manifest.read(tmp_path / "shards").quarantined == 2


def assert_nothing_half_written(folder, whole):
    """Every file that a reader would open is as in the undisturbed conversion."""
    for name, content in tree(folder).items():
        if name.endswith((".tar", ".idx", "index.npy", "manifest.json")) and not name.startswith(".parts"):
            assert content == whole[name], name


def test_a_full_disk_is_one_sentence_at_every_moment_and_the_next_run_continues(tmp_path, monkeypatch):
    convert(source(count=5), tmp_path / "undisturbed", shard_size=3)
    whole = tree(tmp_path / "undisturbed")
    left = 0

    def full(_):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for moment in range(200):
        dest, left = tmp_path / f"full{moment}", moment
        try:
            convert(source(count=5), dest, shard_size=3, workers=1)
            break
        except UserError as error:
            assert str(error) == (  # noqa: PT017  the loop ends where there is no error
                f"Cannot write {dest}: No space left on device; make room or choose another folder, "
                "then give the same command to continue."
            )
        assert not list(dest.rglob("*.part"))
        assert_nothing_half_written(dest, whole)
        left = 10**9
        convert(source(count=5), dest, shard_size=3)
        assert tree(dest) == whole
    assert moment > 20


LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_cannot_grow_ends_with_code_2_and_the_next_run_continues(tmp_path, workers):
    images = lay_out(tmp_path / "images")
    large = encode(noise(np.random.default_rng(0), 480, 480), quality=98)
    assert len(large) > 100_000
    (images / "train" / "b" / "large.jpg").write_bytes(large)
    arguments = ("convert", "folder", images, tmp_path / "shards", "--shard-size", 4, "--workers", workers)
    assert run(*arguments[:3], tmp_path / "undisturbed", *arguments[4:]).returncode == 0
    whole = tree(tmp_path / "undisturbed")
    ended = run(*arguments, before=LIMITED)
    assert (ended.returncode, ended.stderr) == (
        2,
        f"error: Cannot write {tmp_path / 'shards'}: File too large; make room or choose another folder, "
        "then give the same command to continue.\n",
    )
    assert not (tmp_path / "shards" / "manifest.json").exists()
    assert not list((tmp_path / "shards").rglob("*.part"))
    assert_nothing_half_written(tmp_path / "shards", whole)
    ended = run(*arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert tree(tmp_path / "shards") == whole


ON_A_SMALL_DISK = """
mount -t tmpfs -o size=$1 tmpfs $2 || exit 77
room=$2 out=$3; shift 3
"$@"; code=$?
find $room -name "*.part" -o -name manifest.json
mount -o remount,size=64m $room && "$@" && cp -r $room/shards $out || exit 78
exit $code
"""


@pytest.mark.parametrize("where", ["shard", "index"])
def test_a_small_disk_that_is_full_is_one_sentence_and_with_room_the_next_run_continues(tmp_path, where):
    images = lay_out(tmp_path / "images", train=1500)
    (images / "val" / "a" / "broken.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="1 image cannot be read"):
        fasticcl.convert("folder", images, tmp_path / "undisturbed", shard_size=300)
    written = tree(tmp_path / "undisturbed")  # all but the index
    pages = sum(-(-len(content) // 4096) for content in written.values())
    fasticcl.convert("folder", images, tmp_path / "undisturbed", shard_size=300, max_corrupt=1)
    room = 4096 * (pages // 2 if where == "shard" else pages + 6)
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ("--shard-size", 300, "--max-corrupt", 1, "--workers", 1)
    script = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", ON_A_SMALL_DISK, "sh"]
    convert_there = command("convert", "folder", images, disk / "shards", *options)
    ended = subprocess.run(
        [*script, str(room), disk, tmp_path / "continued", *convert_there], capture_output=True, text=True
    )
    if ended.returncode == 77 or "unshare" in ended.stderr:
        pytest.skip("this machine lets nobody mount a file system of its own")
    assert (ended.returncode, ended.stderr) == (
        2,
        f"error: Cannot write {disk / 'shards'}: No space left on device; make room or choose another "
        "folder, then give the same command to continue.\n",
    )
    assert ".part" not in ended.stdout
    assert "manifest" not in ended.stdout
    assert tree(tmp_path / "continued") == tree(tmp_path / "undisturbed")


def test_a_destination_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"Cannot write .*file.*then run the same command"):
        convert(source(), tmp_path / "file" / "shards")


def test_a_read_only_destination_is_one_sentence(tmp_path):
    images = lay_out(tmp_path / "images")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    ended = run("convert", "folder", images, locked / "shards", before=UNPRIVILEGED)
    assert (ended.returncode, ended.stderr) == (
        2,
        f"error: Cannot write {locked / 'shards'}: Permission denied; make room or choose another folder, "
        "then give the same command to continue.\n",
    )
    assert not list(locked.iterdir())


def test_a_locked_image_is_listed_with_its_reason(tmp_path):
    images = lay_out(tmp_path / "images")
    (images / "train" / "a" / "0002.jpg").chmod(0)
    ended = run("convert", "folder", images, tmp_path / "shards", "--max-corrupt", 1, before=UNPRIVILEGED)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads((tmp_path / "shards" / "quarantine.jsonl").read_text()) == {
        "image": "train/a/0002.jpg",
        "reason": "Permission denied",
    }
