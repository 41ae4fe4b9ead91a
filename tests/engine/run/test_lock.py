"""Tests of the lock on a run folder, and of errors for runs in training."""

import json

import pytest

import fasticcl
from fasticcl.engine.loop import Loop
from fasticcl.engine.run.lock import is_locked, lock_run
from fasticcl.errors import UserError
from fasticcl.report.run_history import read_history
from tests.support.files import file_contents
from tests.support.processes import Child
from tests.support.small_runs import resume, train_tiny


def lock_until_exit(folder):
    global lock
    lock = lock_run(folder)
    lock.__enter__()
    return is_locked(folder)


@pytest.fixture
def stopped(tiny_shards, tmp_path, monkeypatch):
    """A run that was stopped in its first stage."""
    with monkeypatch.context() as patched:
        patched.setattr(Loop, "log", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tiny_shards, tmp_path)
    return tmp_path / "demo/run"


def test_resuming_a_locked_run_fails_and_changes_nothing(stopped, tmp_path):
    before = file_contents(stopped)
    with lock_run(stopped):
        with pytest.raises(UserError) as refused:
            resume(tmp_path)
        assert file_contents(stopped) == before
    assert str(refused.value) == (
        f"Another process is training in {stopped}. Wait until it ends, or choose another --name."
    )
    assert resume(tmp_path).run == stopped


def test_lock_is_released_when_a_run_stops_or_ends(stopped, tmp_path):
    assert not is_locked(stopped)
    resume(tmp_path)
    assert not is_locked(stopped)


def test_run_folder_is_locked_during_training(tiny_shards, tmp_path, monkeypatch):
    locked, step = [], Loop.take_step

    def record(*arguments):
        locked.append(is_locked(tmp_path / "demo/run"))
        return step(*arguments)

    monkeypatch.setattr(Loop, "take_step", record)
    train_tiny(tiny_shards, tmp_path)
    assert locked
    assert all(locked)


def test_lock_is_released_when_its_process_is_gone(stopped, tmp_path):
    child = Child(tmp_path / "log", lock_until_exit, stopped)
    assert child.result()
    assert child.exit_code() == 0
    with lock_run(stopped):
        assert is_locked(stopped)


def test_reading_an_unfinished_run_reports_how_to_finish_it(stopped):
    for read in (
        fasticcl.evaluate,
        fasticcl.report,
        lambda run: fasticcl.predict(run, [run / "config.toml"]),
    ):
        with lock_run(stopped), pytest.raises(UserError) as refused:
            read(stopped)
        assert str(refused.value).endswith(". Wait until the process that trains it ends.")
        with pytest.raises(UserError, match=r"\. Continue it with: fasticcl train demo .* --resume$"):
            read(stopped)


def test_duplicate_records_do_not_make_a_run_unfinished(tiny_shards, tmp_path):
    run = train_tiny(tiny_shards, tmp_path).run
    assert read_history(run).finished
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    last = next(line for line in reversed(lines) if "val/top1" in json.loads(line))
    with open(run / "metrics.jsonl", "a") as file:
        file.write(last)
    assert read_history(run).finished
