"""Files that are whole or absent, whatever happens while they are written."""

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
    """A file that is there already, or is not."""
    path = tmp_path / "shard-000000.tar"
    if request.param == "replaced":
        path.write_bytes(OLD)
    return path


def content(path):
    return path.read_bytes() if path.exists() else None


def others(path):
    return [each.name for each in path.parent.iterdir() if each != path]


def test_a_file_appears_with_its_whole_content_only_when_it_is_committed(path):
    before = content(path)
    replacement = Replacement(path)
    for start in range(0, len(NEW), 1000):
        replacement.file.write(NEW[start : start + 1000])
        assert content(path) == before
    replacement.commit()
    assert content(path) == NEW
    replacement.abandon()  # as every writer does at its end
    assert (content(path), others(path)) == (NEW, [])


def test_it_is_on_the_disk_before_it_gets_its_name_and_its_name_before_the_end(path, monkeypatch):
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


def test_a_failure_leaves_what_was_there(path):
    before = content(path)

    def fail():
        with replacing(path) as file:
            file.write(NEW)
            raise ValueError("in between")

    with pytest.raises(ValueError, match="in between"):
        fail()
    assert (content(path), others(path)) == (before, [])


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_refuses_leaves_what_was_there(path, monkeypatch, step):
    before = content(path)

    def refused(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, refused)
    with pytest.raises(OSError, match="No space left"):
        write_file(path, NEW)
    assert (content(path), others(path)) == (before, [])


def test_a_file_that_cannot_even_be_flushed_is_abandoned_in_silence(path):
    script = """
import resource, sys
from pathlib import Path
from fasticcl.files import Replacement
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
replacement = Replacement(Path(sys.argv[1]))
replacement.file.write(bytes(2000))  # waits in the buffer
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


def test_a_folder_that_is_not_there_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_file(tmp_path / "nowhere" / "file", NEW)


def test_what_killed_attempts_left_is_removed_and_nothing_else(path):
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


def test_what_a_killed_process_left_is_removed_by_the_next(path):
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


def test_two_writers_at_once_do_not_mix(path):
    one, two = Replacement(path), Replacement(path)
    assert one.aside != two.aside
    for _ in range(50):
        one.file.write(b"1" * 999)
        two.file.write(b"2" * 777)
    two.commit()
    assert content(path) == b"2" * 777 * 50
    try:
        one.commit()
    except FileNotFoundError:  # the second took it for what a killed one left
        assert content(path) == b"2" * 777 * 50
    else:
        assert content(path) == b"1" * 999 * 50
    one.abandon()
    two.abandon()
    assert others(path) == []


def test_readers_see_one_whole_content_after_another_while_writers_race(tmp_path):
    path = tmp_path / "manifest.json"
    contents = [bytes([65 + i]) * (10_000 + i) for i in range(4)]
    write_file(path, contents[0])
    stop, seen, failed = threading.Event(), set(), []

    def write(mine):
        while not stop.is_set():
            try:
                write_file(path, mine)
            except FileNotFoundError:  # lost against another writer
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
