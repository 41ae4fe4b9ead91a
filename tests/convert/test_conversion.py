"""Conversion: reproducible bytes, interruptions, other settings, full disks and missing permissions."""

import dataclasses
import errno
import json
import os
import signal
import subprocess

import numpy as np
import pytest

import fasticcl
from fasticcl.convert.conversion import convert
from fasticcl.convert.source import Item, Source
from fasticcl.errors import UserError
from fasticcl.shards.manifest import Manifest
from fasticcl.shards.reader import Shards
from fasticcl.shards.shrink import Shrink
from tests.support.command_line import UNPRIVILEGED, cli_command, run_cli_subprocess
from tests.support.files import file_contents, modification_times, modify_later
from tests.support.image_sources import jpeg_source, write_image_folder
from tests.support.images import encode, noise
from tests.support.processes import started_process

IMAGE = noise(np.random.default_rng(0), 48, 64)
JPEG = encode(IMAGE, quality=90)


def test_the_number_of_workers_does_not_change_a_byte(tmp_path):
    for workers in (1, 2, 7):
        convert(jpeg_source(), tmp_path / str(workers), shard_size=3, workers=workers)
    assert file_contents(tmp_path / "1") == file_contents(tmp_path / "2") == file_contents(tmp_path / "7")


def test_format_is_detected_from_the_content_and_not_the_name(tmp_path):
    contents = {"a.JPEG": encode(IMAGE, "PNG"), "b.png": JPEG, "c.jpg": encode(IMAGE, "BMP")}
    items = [Item(content, 0, name) for name, content in contents.items()]
    manifest = convert(Source("folder", ["x"], {"train": items, "val": items[:1]}), tmp_path)
    shards = Shards(tmp_path, "train")
    assert [image.tobytes() for image in shards.read(np.arange(2))] == [contents["a.JPEG"], JPEG]
    idx = (tmp_path / "train" / "shard-000000.idx").read_text().splitlines()[1:]
    assert [line.split()[0] for line in idx] == ["png", "jpg", "png"]
    assert manifest.reencoded == {"BMP format": 1}


def test_file_that_cannot_be_opened_is_quarantined(tmp_path):
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


@pytest.mark.parametrize("images_before_stop", [0, 1, 7, 13, 23])
def test_interrupted_conversion_continues_and_gives_the_same_bytes(tmp_path, images_before_stop):
    convert(jpeg_source(), tmp_path / "uninterrupted", shard_size=3)
    left = images_before_stop
    stopped = tmp_path / "stopped"

    def stop(images, _):
        nonlocal left
        left -= images
        if left < 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(jpeg_source(), stopped, shard_size=3, workers=1, report=stop)
    assert not (stopped / "manifest.json").exists()
    assert not list(stopped.rglob("*.part"))
    convert(jpeg_source(), stopped, shard_size=3)
    assert file_contents(stopped) == file_contents(tmp_path / "uninterrupted")


@pytest.mark.parametrize("kind", ["bytes", "files"])
def test_finished_conversion_stays_unchanged(tmp_path, kind):
    images = write_image_folder(tmp_path / "images")

    def convert_again():
        if kind == "bytes":
            return convert(jpeg_source(), tmp_path / "shards", shard_size=5)
        return fasticcl.convert("folder", images, tmp_path / "shards", shard_size=5)

    first = convert_again()
    before = modification_times(tmp_path / "shards")
    assert convert_again() == first
    assert modification_times(tmp_path / "shards") == before


SHORT, LONG = Shrink("short", 40, 90), Shrink("long", 40, 90)


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ({}, {"shard_size": 4}, "with --shard-size 5"),
        ({}, {"shrink": SHORT}, "without --short-side and without --quality"),
        ({"shrink": SHORT}, {}, "with --short-side 40 and with --quality 90"),
        ({"shrink": SHORT}, {"shrink": LONG}, "with --short-side 40 and without --max-side"),
        ({"shrink": SHORT}, {"shrink": Shrink("short", 40, 91)}, "with --quality 90"),
    ],
    ids=["shard size", "short side", "no short side", "long side", "quality"],
)
def test_other_settings_are_rejected_by_name_and_change_nothing(tmp_path, old, new, difference):
    convert(jpeg_source(), tmp_path, **{"shard_size": 5, **old})
    before = file_contents(tmp_path), modification_times(tmp_path)
    with pytest.raises(UserError, match=f"already contains another conversion: it was made {difference}\\."):
        convert(jpeg_source(), tmp_path, **{"shard_size": 5, **new})
    assert (file_contents(tmp_path), modification_times(tmp_path)) == before


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (jpeg_source(count=12), "was made from other images"),
        (jpeg_source(splits=("train", "test")), "was made from other images"),
        (Source("inat2018", ["a", "b"], jpeg_source().splits), "contains the dataset folder"),
        (Source("folder", ["a", "c"], jpeg_source().splits), "has other classes"),
        (
            Source("folder", ["a", "b"], {**jpeg_source().splits, "val": jpeg_source().splits["train"][1:5]}),
            "was made from other images",
        ),
    ],
    ids=["fewer images", "other split", "other dataset", "other class name", "other images"],
)
def test_shards_of_another_source_are_not_overwritten(tmp_path, other, difference):
    convert(jpeg_source(), tmp_path)
    before = file_contents(tmp_path)
    with pytest.raises(UserError, match=f"already contains another conversion: it {difference}\\. Choose"):
        convert(other, tmp_path)
    assert file_contents(tmp_path) == before


def test_image_changed_after_the_conversion_is_detected_at_equal_size(tmp_path):
    images = write_image_folder(tmp_path / "images")
    fasticcl.convert("folder", images, tmp_path / "shards")
    before = file_contents(tmp_path / "shards")
    changed = images / "train" / "a" / "0000.jpg"
    changed.write_bytes(changed.read_bytes()[:-1] + b"\0")
    modify_later(changed)
    with pytest.raises(UserError, match=r"Images were changed after the conversion"):
        fasticcl.convert("folder", images, tmp_path / "shards")
    assert file_contents(tmp_path / "shards") == before


def test_image_removed_after_the_conversion_is_detected(tmp_path):
    images = write_image_folder(tmp_path / "images")
    fasticcl.convert("folder", images, tmp_path / "shards")
    (images / "train" / "a" / "0000.jpg").unlink()
    with pytest.raises(UserError, match="already contains another conversion: it was made from other images"):
        fasticcl.convert("folder", images, tmp_path / "shards")


def test_folder_with_other_files_is_rejected(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(JPEG)
    with pytest.raises(UserError, match=r"contains other files\. Choose an empty or new folder"):
        convert(jpeg_source(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_progress_counts_every_image(tmp_path):
    reports = []
    convert(
        jpeg_source(), tmp_path, shard_size=7, report=lambda images, total: reports.append((images, total))
    )
    assert sum(images for images, _ in reports) == 24
    assert {total for _, total in reports} == {24}


def test_ctrl_c_prints_a_command_that_continues_the_conversion(tmp_path):
    images = write_image_folder(tmp_path / "images", train=40)
    fifo = images / "train" / "b" / "0039.jpg"
    content = fifo.read_bytes()
    fifo.unlink()
    os.mkfifo(fifo)  # the conversion blocks at this image until it is written
    arguments = ("convert", "folder", images, tmp_path / "shards", "--shard-size", 10, "--workers", 1)
    with started_process(
        cli_command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        with open(fifo, "wb") as writer:  # blocks until the conversion opens it too
            process.send_signal(signal.SIGINT)
            writer.write(content)
        errors = process.stderr.read()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert f"fasticcl convert folder {images} {tmp_path / 'shards'} --shard-size 10" in errors
    fifo.unlink()
    fifo.write_bytes(content)
    assert run_cli_subprocess(*arguments).returncode == 0
    assert run_cli_subprocess(*arguments[:3], tmp_path / "fresh", *arguments[4:]).returncode == 0
    assert file_contents(tmp_path / "shards") == file_contents(tmp_path / "fresh")


def test_warnings_of_libraries_are_not_printed(tmp_path):
    images = write_image_folder(tmp_path / "images", train=4, val=2)
    bad_exif = b"Exif\0\0MM\0*\0\0\0\x08\0\5"
    segment = b"\xff\xe1" + (len(bad_exif) + 2).to_bytes(2, "big") + bad_exif
    size_offset = JPEG.index(b"\xff\xc0") + 5
    (images / "train" / "a" / "exif.jpg").write_bytes(JPEG[:2] + segment + JPEG[2:])
    (images / "train" / "a" / "large.jpg").write_bytes(
        JPEG[:size_offset] + (12_000).to_bytes(2, "big") * 2 + JPEG[size_offset + 4 :]
    )
    (images / "train" / "a" / "cut.tif").write_bytes(encode(IMAGE, "TIFF")[:-40])
    process = run_cli_subprocess("convert", "folder", images, tmp_path / "shards", "--max-corrupt", 2)
    assert (process.returncode, process.stderr) == (0, "")
    assert Manifest.read(tmp_path / "shards").quarantined == 2


def assert_visible_files_are_complete(folder, whole):
    """Check that every file that readers open has its final content."""
    for name, content in file_contents(folder).items():
        if name.endswith((".tar", ".idx", "index.npy", "manifest.json")) and not name.startswith(".parts"):
            assert content == whole[name], name


def test_full_disk_at_any_moment_gives_an_error_and_the_next_run_continues(tmp_path, monkeypatch):
    convert(jpeg_source(count=5), tmp_path / "uninterrupted", shard_size=3)
    whole = file_contents(tmp_path / "uninterrupted")
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
            convert(jpeg_source(count=5), dest, shard_size=3, workers=1)
            break
        except UserError as error:
            assert str(error) == (  # noqa: PT017  the loop ends where there is no error
                f"Cannot write {dest}: No space left on device. Free some space or choose another "
                "folder, then run the same command to continue."
            )
        assert not list(dest.rglob("*.part"))
        assert_visible_files_are_complete(dest, whole)
        left = 10**9
        convert(jpeg_source(count=5), dest, shard_size=3)
        assert file_contents(dest) == whole
    assert moment > 20


LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))"


@pytest.mark.parametrize("workers", [1, 2])
def test_file_size_limit_gives_exit_code_2_and_the_next_run_continues(tmp_path, workers):
    images = write_image_folder(tmp_path / "images")
    large = encode(noise(np.random.default_rng(0), 480, 480), quality=98)
    assert len(large) > 100_000
    (images / "train" / "b" / "large.jpg").write_bytes(large)
    arguments = ("convert", "folder", images, tmp_path / "shards", "--shard-size", 4, "--workers", workers)
    assert run_cli_subprocess(*arguments[:3], tmp_path / "uninterrupted", *arguments[4:]).returncode == 0
    whole = file_contents(tmp_path / "uninterrupted")
    process = run_cli_subprocess(*arguments, before=LIMITED)
    assert (process.returncode, process.stderr) == (
        2,
        f"error: Cannot write {tmp_path / 'shards'}: File too large. Free some space or choose another "
        "folder, then run the same command to continue.\n",
    )
    assert not (tmp_path / "shards" / "manifest.json").exists()
    assert not list((tmp_path / "shards").rglob("*.part"))
    assert_visible_files_are_complete(tmp_path / "shards", whole)
    process = run_cli_subprocess(*arguments)
    assert (process.returncode, process.stderr) == (0, "")
    assert file_contents(tmp_path / "shards") == whole


ON_A_SMALL_DISK = """
mount -t tmpfs -o size=$1 tmpfs $2 || exit 77
room=$2 out=$3; shift 3
"$@"; code=$?
find $room -name "*.part" -o -name manifest.json
mount -o remount,size=64m $room && "$@" && cp -r $room/shards $out || exit 78
exit $code
"""


@pytest.mark.parametrize("where", ["shard", "index"])
def test_full_file_system_gives_an_error_and_the_next_run_continues(tmp_path, where):
    images = write_image_folder(tmp_path / "images", train=1500)
    (images / "val" / "a" / "broken.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="1 image cannot be read"):
        fasticcl.convert("folder", images, tmp_path / "uninterrupted", shard_size=300)
    written = file_contents(tmp_path / "uninterrupted")  # everything except the index
    pages = sum(-(-len(content) // 4096) for content in written.values())
    fasticcl.convert("folder", images, tmp_path / "uninterrupted", shard_size=300, max_corrupt=1)
    room = 4096 * (pages // 2 if where == "shard" else pages + 6)
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ("--shard-size", 300, "--max-corrupt", 1, "--workers", 1)
    script = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", ON_A_SMALL_DISK, "sh"]
    convert_there = cli_command("convert", "folder", images, disk / "shards", *options)
    process = subprocess.run(
        [*script, str(room), disk, tmp_path / "continued", *convert_there], capture_output=True, text=True
    )
    if process.returncode == 77 or "unshare" in process.stderr:
        pytest.skip("this machine does not allow mounting a file system")
    assert (process.returncode, process.stderr) == (
        2,
        f"error: Cannot write {disk / 'shards'}: No space left on device. Free some space or choose another "
        "folder, then run the same command to continue.\n",
    )
    assert ".part" not in process.stdout
    assert "manifest" not in process.stdout
    assert file_contents(tmp_path / "continued") == file_contents(tmp_path / "uninterrupted")


def test_destination_that_cannot_be_written_gives_an_error_with_its_path(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"Cannot write .*file.*then run the same command"):
        convert(jpeg_source(), tmp_path / "file" / "shards")


def test_read_only_destination_gives_a_clear_error(tmp_path):
    images = write_image_folder(tmp_path / "images")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    process = run_cli_subprocess("convert", "folder", images, locked / "shards", before=UNPRIVILEGED)
    assert (process.returncode, process.stderr) == (
        2,
        f"error: Cannot write {locked / 'shards'}: Permission denied. Free some space or choose another "
        "folder, then run the same command to continue.\n",
    )
    assert not list(locked.iterdir())


def test_image_without_read_permission_is_quarantined_with_its_reason(tmp_path):
    images = write_image_folder(tmp_path / "images")
    (images / "train" / "a" / "0002.jpg").chmod(0)
    process = run_cli_subprocess(
        "convert", "folder", images, tmp_path / "shards", "--max-corrupt", 1, before=UNPRIVILEGED
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert json.loads((tmp_path / "shards" / "quarantine.jsonl").read_text()) == {
        "image": "train/a/0002.jpg",
        "reason": "Permission denied",
    }


def test_the_name_of_the_subset_does_not_change_the_checksum_of_the_source(tmp_path):
    source = jpeg_source()
    named = dataclasses.replace(source, subset="file-names-seed0")
    before = convert(source, tmp_path / "without")
    manifest = convert(named, tmp_path / "with")
    assert manifest.settings == {**before.settings, "subset": "file-names-seed0"}
    assert "subset" not in before.settings
    assert manifest.source_sha256 == before.source_sha256
    assert convert(named, tmp_path / "without") == before  # shards of an earlier version are finished
    with pytest.raises(UserError, match=r"it was made with --shard-size 2000\."):
        convert(source, tmp_path / "with", shard_size=5)
