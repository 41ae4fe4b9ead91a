"""Several processes that divide the shards of one conversion."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import fasticcl
from fasticcl.convert import shard_parts
from fasticcl.convert.conversion import convert
from fasticcl.convert.layouts import folder
from fasticcl.convert.source import ItemList, Source
from fasticcl.errors import UserError
from fasticcl.shards.manifest import Manifest
from tests.support.files import file_contents, write_tar
from tests.support.image_sources import write_image_folder
from tests.support.processes import started_process

SIZE = 4  # images per shard


@pytest.fixture(autouse=True)
def short_polling(monkeypatch):
    monkeypatch.setattr(shard_parts, "_POLL_SECONDS", 0.01)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_image_folder(tmp_path_factory.mktemp("images"), train=30, val=9)


@pytest.fixture(scope="module")
def source(images):
    return folder.read(images)


@pytest.fixture(scope="module")
def archived(images, tmp_path_factory):
    """The same images as members of an archive, in reverse order."""
    contents = file_contents(images)
    path = tmp_path_factory.mktemp("archive") / "images.tar.gz"
    write_tar(path, [(name, contents[name]) for name in sorted(contents, reverse=True)])
    splits = {
        split: ItemList([n for n in contents if n.startswith(split)], labels(contents, split), lambda _, n: n)
        for split in ("train", "val")
    }
    return Source("folder", ["a", "b"], splits, archive=path)


def labels(contents, split):
    return ["ab".index(name.split("/")[1]) for name in contents if name.startswith(split)]


@pytest.fixture(scope="module", params=["files", "archive"])
def kind(request):
    """A source of files, and the same images in an archive."""
    return request.getfixturevalue("source" if request.param == "files" else "archived")


@pytest.fixture(scope="module")
def single_process_files(kind, tmp_path_factory):
    """The files of a conversion by a single process."""
    dest = tmp_path_factory.mktemp("alone")
    convert(kind, dest, shard_size=SIZE)
    return file_contents(dest)


def convert_on_ranks(source, dest, world_size, delays=(), **options):
    """Convert with several ranks in parallel and return their results."""

    def work(rank):
        time.sleep(delays[rank] if delays else 0)
        return convert(source, dest, shard_size=SIZE, workers=1, rank=rank, world_size=world_size, **options)

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(work, range(world_size)))


@pytest.mark.parametrize(
    ("world_size", "delays"),
    [(2, ()), (3, ()), (3, (0, 0.2, 0.1)), (3, (0.3, 0.05, 0)), (11, ())],
    ids=["two", "three", "others late", "first late", "more than shards"],
)
def test_ranks_write_the_same_bytes_as_one_process_in_any_order(
    kind, single_process_files, tmp_path, world_size, delays
):
    results = convert_on_ranks(kind, tmp_path / "shards", world_size, delays)
    assert results[0] is not None
    assert results[1:] == [None] * (world_size - 1)
    assert file_contents(tmp_path / "shards") == single_process_files


def test_each_rank_decodes_only_its_share(kind, tmp_path, monkeypatch):
    closed = []
    close = shard_parts.ShardPartWriter.close
    monkeypatch.setattr(
        shard_parts.ShardPartWriter,
        "close",
        lambda self: closed.append((threading.current_thread().name, self.number)) or close(self),
    )
    monkeypatch.setattr(shard_parts.time, "sleep", lambda _: pytest.fail("rank 1 must not wait"))
    assert convert(kind, tmp_path, shard_size=SIZE, workers=1, rank=1, world_size=2) is None
    assert sorted(number for _, number in closed) == [1, 1, 3, 5, 7]


def test_ranks_that_start_after_the_end_change_nothing(kind, single_process_files, tmp_path):
    convert_on_ranks(kind, tmp_path, 2)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert convert(kind, tmp_path, shard_size=SIZE, rank=1, world_size=2) is None
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert file_contents(tmp_path) == single_process_files


@pytest.mark.parametrize("world_size", [1, 3])
def test_another_number_of_ranks_continues_after_a_rank_was_lost(
    kind, single_process_files, tmp_path, world_size
):
    convert(kind, tmp_path, shard_size=SIZE, rank=1, world_size=2)  # rank 0 never started
    assert not (tmp_path / "manifest.json").exists()
    convert_on_ranks(kind, tmp_path, world_size)
    assert file_contents(tmp_path) == single_process_files


def test_rank_0_lists_the_unreadable_images_of_all_ranks(images, tmp_path):
    for name, content in file_contents(images).items():
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if name[-7:-4] in ("002", "007", "035") else content)
    broken = folder.read(tmp_path / "images")
    with pytest.raises(UserError, match=r"3 images cannot be read, for example train/a/0002\.jpg"):
        convert_on_ranks(broken, tmp_path / "shards", 3)
    convert_on_ranks(broken, tmp_path / "shards", 3, max_corrupt=3)
    convert(broken, tmp_path / "alone", shard_size=SIZE, max_corrupt=3)
    assert file_contents(tmp_path / "shards") == file_contents(tmp_path / "alone")


def test_rank_can_start_while_another_creates_the_folder(kind, tmp_path, monkeypatch):
    dest = tmp_path / "shards"
    dest.mkdir()
    iterdir = Path.iterdir

    def iterdir_after_the_other_rank(path):
        (dest / ".parts" / "train").mkdir(parents=True, exist_ok=True)  # done by the other rank
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", iterdir_after_the_other_rank)
    assert convert(kind, dest, shard_size=SIZE, rank=1, world_size=2) is None


def test_a_rank_that_starts_while_rank_0_finishes_leaves_no_files(
    kind, single_process_files, tmp_path, monkeypatch
):
    convert(kind, tmp_path, shard_size=SIZE, rank=1, world_size=2)
    read = Manifest.read

    def read_before_rank_0_finishes(folder):
        manifest = read(folder)
        monkeypatch.setattr(Manifest, "read", read)
        convert(kind, tmp_path, shard_size=SIZE, rank=0, world_size=2)  # done by rank 0
        return manifest

    monkeypatch.setattr(Manifest, "read", read_before_rank_0_finishes)
    convert(kind, tmp_path, shard_size=SIZE, rank=1, world_size=2)
    convert(kind, tmp_path, shard_size=SIZE, rank=0, world_size=2)
    assert file_contents(tmp_path) == single_process_files


def torchrun(*arguments, processes=2):
    return [
        Path(sys.executable).parent / "torchrun",
        "--nproc-per-node",
        str(processes),
        "--master-port",
        "0",
        "-m",
        "fasticcl",
        *map(str, arguments),
    ]


def test_torchrun_writes_the_same_bytes_and_prints_one_summary(images, source, tmp_path):
    convert(source, tmp_path / "alone", shard_size=SIZE)
    arguments = ("convert", "folder", images, tmp_path / "shards", "--shard-size", SIZE, "--workers", 1)
    process = subprocess.run(torchrun(*arguments), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert file_contents(tmp_path / "shards") == file_contents(tmp_path / "alone")
    assert process.stdout.count("Next: fasticcl train") == 1


def children(process):
    """Return the process id of each rank that torchrun started."""
    process_ids = {}
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            ranks = [variable[5:] for variable in variables if variable.startswith(b"RANK=")]
            if ranks:
                process_ids[int(ranks[0])] = int(child)
    return process_ids


def test_killed_rank_stops_the_job_and_the_same_command_finishes_it(images, source, tmp_path):
    convert(source, tmp_path / "alone", shard_size=SIZE)
    copy = write_image_folder(tmp_path / "images", train=30, val=9)
    assert file_contents(copy) == file_contents(images)
    blocked = sorted((copy / "train").rglob("*.jpg"))[3 * SIZE]  # in the second shard of rank 1
    content = blocked.read_bytes()
    blocked.unlink()
    os.mkfifo(blocked)  # rank 1 waits at this image, and rank 0 for rank 1
    arguments = ("convert", "folder", copy, tmp_path / "shards", "--shard-size", SIZE, "--workers", 1)
    with started_process(torchrun(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        writer = os.open(blocked, os.O_WRONLY)  # waits for rank 1
        os.kill(children(process)[1], signal.SIGKILL)
        process.communicate()
    os.close(writer)
    assert process.returncode != 0
    assert not (tmp_path / "shards" / "manifest.json").exists()
    assert (tmp_path / "shards" / "train" / "shard-000001.tar").exists()
    blocked.unlink()
    blocked.write_bytes(content)
    process = subprocess.run(torchrun(*arguments), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert file_contents(tmp_path / "shards") == file_contents(tmp_path / "alone")
    assert not fasticcl.verify(tmp_path / "shards").problems
