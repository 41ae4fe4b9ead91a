"""Runs whose files are written while training continues: slow disks, failures and kills of the writer."""

import os
import signal
import threading
from functools import partial
from pathlib import Path

import pytest

from fasticcl.engine.loop import Loop
from fasticcl.engine.run import checkpoint
from fasticcl.engine.run.checkpoint import load_checkpoint
from fasticcl.engine.run.writer import RunWriter
from tests.support.processes import Child
from tests.support.small_runs import TINY_STEPS, differences, resume, train_tiny

WAIT = 30  # seconds, for events that come at once unless the test fails


@pytest.fixture
def begin(tiny_shards, tmp_path):
    return partial(train_tiny, tiny_shards, tmp_path)


def after_steps(monkeypatch, after):
    """Call ``after(count)`` after every step, without waiting for the files of earlier steps."""
    take_step, taken = Loop.take_step, 0

    def counted(self, *arguments):
        nonlocal taken
        take_step(self, *arguments)
        taken += 1
        after(taken)

    monkeypatch.setattr(Loop, "take_step", counted)


@pytest.mark.parametrize("name", ["metrics.jsonl", "results.csv", "best.pt", "last.pt"])
def test_slow_disk_does_not_delay_the_next_steps(begin, monkeypatch, name):
    """The files of the first epoch reach the disk only after two steps of the second one."""
    events, later, fsync = [], threading.Event(), os.fsync

    def slow(file):
        path = Path(os.readlink(f"/proc/self/fd/{file}"))
        if path.name.startswith(name) and not events:
            events.append("sync")
            assert later.wait(WAIT)
            events.append("synced")
        fsync(file)

    def after(count):
        if events and count == TINY_STEPS + 2:
            events.append("two steps")
            later.set()

    after_steps(monkeypatch, after)
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", slow)
        begin({"engine.save_every": "15m"}, epochs=2)
    assert events == ["sync", "two steps", "synced"]


def test_writes_of_the_checkpoint_files_never_overlap(begin, undisturbed, tmp_path, monkeypatch):
    events, save, take = [], checkpoint.save_checkpoint, RunWriter.save

    def noted(path, *arguments):
        events.append(("begin", path.name))
        save(path, *arguments)
        events.append(("end", path.name))

    def requested(self, *arguments):
        take(self, *arguments)
        requests.append(arguments)

    requests = []
    monkeypatch.setattr(checkpoint, "save_checkpoint", noted)
    monkeypatch.setattr(RunWriter, "save", requested)
    begin({"engine.save_every": "1"})
    names = [name for kind, name in events if kind == "begin"]
    assert events == [(kind, name) for name in names for kind in ("begin", "end")]
    assert names.count("last.pt") == len(requests) == 4 * TINY_STEPS + 4
    assert differences(tmp_path / "demo/run", undisturbed) == []


def test_unexpected_failure_of_a_write_ends_training(begin, tmp_path, monkeypatch):
    def broken(path, *_):
        raise ValueError(f"cannot serialise {path.name}")

    monkeypatch.setattr(checkpoint, "save_checkpoint", broken)
    steps = []
    after_steps(monkeypatch, steps.append)
    with pytest.raises(ValueError, match=r"cannot serialise last\.pt"):
        begin()
    assert len(steps) < 4 * TINY_STEPS
    assert not (tmp_path / "demo/run/last.pt").exists()


def killed_before_a_write(shards, project, saves):
    """Kill the process between the n-th copy of its state and the write of the copy, two steps later."""
    copied, written, killed = 0, 0, threading.Event()
    taken, save = RunWriter.save, checkpoint.save_checkpoint

    def copying(self, *arguments):
        nonlocal copied
        copied += 1
        taken(self, *arguments)

    def held(path, *arguments):
        nonlocal written
        written += path.name == "last.pt"
        if path.name == "last.pt" and written == saves:
            assert killed.wait(WAIT)
        save(path, *arguments)

    def after(_):
        nonlocal since
        since += copied == saves
        if since == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    since = 0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RunWriter, "save", copying)
        patched.setattr(checkpoint, "save_checkpoint", held)
        after_steps(patched, after)
        train_tiny(shards, project, {"engine.save_every": "15m"})


@pytest.mark.parametrize(("saves", "place"), [(1, None), (2, ("representation", 1, 0))])
def test_run_killed_before_a_copy_is_written_resumes(tiny_shards, undisturbed, tmp_path, saves, place):
    child = Child(tmp_path / "log", killed_before_a_write, tiny_shards, tmp_path, saves)
    assert child.exit_code() == -signal.SIGKILL, child.printed()
    last = tmp_path / "demo/run/last.pt"
    if place is None:
        assert not last.exists()
    else:
        saved = load_checkpoint(last)
        assert (saved["stage"], saved["epoch"], saved["step"]) == place
    resume(tmp_path)
    assert differences(tmp_path / "demo/run", undisturbed) == []
