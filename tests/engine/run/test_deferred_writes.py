"""Tests of writes that are retried after a failure."""

import errno

import pytest

from fasticcl.engine.run.deferred_writes import DeferredWrites


class Disk:
    """A disk whose writes fail while it is full."""

    def __init__(self):
        self.full = False

    def write(self, path):
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        path.write_text("content")


@pytest.fixture
def disk():
    return Disk()


def test_failed_write_is_reported_once_and_retried(disk, tmp_path):
    warnings = []
    files = DeferredWrites(tmp_path, warn=warnings.append)
    disk.full = True
    files.write("a", disk.write)
    assert not files.flush()
    assert len(warnings) == 1
    disk.full = False
    assert files.flush()
    assert (tmp_path / "a").read_text() == "content"
    assert files.pending == {}


def test_try_write_does_not_queue_a_failed_write(disk, tmp_path):
    files = DeferredWrites(tmp_path)
    disk.full = True
    assert not files.try_write("a", disk.write)
    assert files.failing == {"a"}
    assert files.flush()


def test_disabled_writer_writes_nothing_and_succeeds(disk, tmp_path):
    files = DeferredWrites(tmp_path, enabled=False)
    assert files.try_write("a", disk.write)
    assert [*tmp_path.iterdir()] == []
