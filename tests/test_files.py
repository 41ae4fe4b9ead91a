"""Atomic file writes under failures, kills and concurrent writers."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fasticcl.files import ASIDE, Replacement, replacing, write_file

OLD, NEW = b"old content", b"new content " * 10_000


@pytest.fixture(params=["replaced", "new"])
def path(request, tmp_path):
    """Path of an existing file, or of a file that does not exist."""
    path = tmp_path / "shard-000000.tar"
    if request.param == "replaced":
        path.write_bytes(OLD)
    return path


def content(path):
    return path.read_bytes() if path.exists() else None


def others(path):
    return [each.name for each in path.parent.iterdir() if each != path]


def test_new_content_is_visible_only_after_commit(path):
    before = content(path)
    replacement = Replacement(path)
    for start in range(0, len(NEW), 1000):
        replacement.file.write(NEW[start : start + 1000])
        assert content(path) == before
    replacement.commit()
    assert content(path) == NEW
    replacement.abandon()  # as `replacing` does
    assert (content(path), others(path)) == (NEW, [])


def test_content_is_synced_before_the_rename_and_the_folder_after(path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def watched(descriptor):
        target = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        done.append(("synced", "folder" if target.is_dir() else target.stat().st_size))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    monkeypatch.setattr(os, "replace", lambda *names: done.append(("named", len(NEW))) or replace(*names))
    write_file(path, NEW)
    assert done == [("synced", len(NEW)), ("named", len(NEW)), ("synced", "folder")]


def test_an_exception_leaves_the_file_unchanged(path):
    before = content(path)

    def fail():
        with replacing(path) as file:
            file.write(NEW)
            raise ValueError("in between")

    with pytest.raises(ValueError, match="in between"):
        fail()
    assert (content(path), others(path)) == (before, [])


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_file_unchanged(path, monkeypatch, step):
    before = content(path)

    def refused(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, refused)
    with pytest.raises(OSError, match="No space left"):
        write_file(path, NEW)
    assert (content(path), others(path)) == (before, [])


def test_abandoning_a_file_that_cannot_be_flushed_raises_nothing(path):
    script = """
import resource, sys
from pathlib import Path
from fasticcl.files import Replacement
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
replacement = Replacement(Path(sys.argv[1]))
replacement.file.write(bytes(2000))  # stays in the buffer
try:
    replacement.commit()
except OSError as error:
    print(error.strerror)
replacement.abandon()
"""
    before = content(path)
    ended = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "File too large\n", "")
    assert (content(path), others(path)) == (before, [])


def test_a_missing_folder_raises_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_file(tmp_path / "nowhere" / "file", NEW)


def test_only_unfinished_files_of_the_same_path_are_removed(path):
    left = [path.with_name(f"{path.name}.{mark}{ASIDE}") for mark in ("0123abcd", "deadbeef")]
    kept = [path.with_name("shard-000001.tar.0123abcd.part"), path.with_name("shard-000000.idx")]
    for each in left + kept:
        each.write_bytes(b"half")
    replacement = Replacement(path)
    assert not any(each.exists() for each in left)
    replacement.file.write(NEW)
    replacement.commit()
    assert content(path) == NEW
    assert sorted(others(path)) == sorted(each.name for each in kept)


def test_the_next_writer_removes_the_file_of_a_killed_process(path):
    script = """
import os, signal, sys
from pathlib import Path
from fasticcl.files import Replacement
replacement = Replacement(Path(sys.argv[1]))
replacement.file.write(bytes(100_000))
replacement.file.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    before = content(path)
    subprocess.run([sys.executable, "-c", script, path])
    assert content(path) == before
    assert len(others(path)) == 1
    write_file(path, NEW)
    assert (content(path), others(path)) == (NEW, [])


def test_two_concurrent_writers_do_not_mix_their_content(path):
    one, two = Replacement(path), Replacement(path)
    assert one.aside != two.aside
    for _ in range(50):
        one.file.write(b"1" * 999)
        two.file.write(b"2" * 777)
    two.commit()
    assert content(path) == b"2" * 777 * 50
    try:
        one.commit()
    except FileNotFoundError:  # the second writer removed it as unfinished
        assert content(path) == b"2" * 777 * 50
    else:
        assert content(path) == b"1" * 999 * 50
    one.abandon()
    two.abandon()
    assert others(path) == []


def test_readers_see_complete_content_while_writers_race(tmp_path):
    path = tmp_path / "manifest.json"
    contents = [bytes([65 + i]) * (10_000 + i) for i in range(4)]
    write_file(path, contents[0])
    stop, seen, failed = threading.Event(), set(), []

    def write(mine):
        while not stop.is_set():
            try:
                write_file(path, mine)
            except FileNotFoundError:  # another writer removed the temporary file
                pass
            except BaseException as error:
                failed.append(error)
                raise

    writers = [threading.Thread(target=write, args=(each,)) for each in contents]
    for writer in writers:
        writer.start()
    for _ in range(300):
        seen.add(path.read_bytes())
    stop.set()
    for writer in writers:
        writer.join()
    assert not failed
    assert seen <= set(contents)
    write_file(path, NEW)
    assert (content(path), others(path)) == (NEW, [])
