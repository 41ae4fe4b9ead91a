"""A run folder that another process is training in."""

import json

import pytest

import fasticcl
from fasticcl.engine.loop import Loop
from fasticcl.engine.run.lock import is_locked, lock_run
from fasticcl.errors import UserError
from fasticcl.report.run_history import read_history
from tests.support.processes import Child
from tests.support.small_runs import resume, start_tiny
from tests.support.trees import tree


def hold_to_the_end(folder):
    global kept
    kept = lock_run(folder)
    kept.__enter__()
    return is_locked(folder)


@pytest.fixture
def stopped(tiny_shards, tmp_path, monkeypatch):
    """A run that was stopped in its first stage."""
    with monkeypatch.context() as patched:
        patched.setattr(Loop, "log", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            start_tiny(tiny_shards, tmp_path)
    return tmp_path / "demo/run"


def test_it_is_refused_and_left_as_it_is(stopped, tmp_path):
    before = tree(stopped)
    with lock_run(stopped):
        with pytest.raises(UserError) as refused:
            resume(tmp_path)
        assert tree(stopped) == before
    assert str(refused.value) == (
        f"Another process is training in {stopped}. Wait until it ends, or choose another --name."
    )
    assert resume(tmp_path).run == stopped


def test_a_run_lets_go_of_its_folder_when_it_is_stopped_and_when_it_ends(stopped, tmp_path):
    assert not is_locked(stopped)
    resume(tmp_path)
    assert not is_locked(stopped)


def test_a_run_holds_its_folder(tiny_shards, tmp_path, monkeypatch):
    seen, step = [], Loop.take_step

    def looking(*arguments):
        seen.append(is_locked(tmp_path / "demo/run"))
        return step(*arguments)

    monkeypatch.setattr(Loop, "take_step", looking)
    start_tiny(tiny_shards, tmp_path)
    assert seen
    assert all(seen)


def test_a_process_that_is_gone_holds_nothing(stopped, tmp_path):
    child = Child(tmp_path / "log", hold_to_the_end, stopped)
    assert child.result()
    assert child.exit_code() == 0
    with lock_run(stopped):
        assert is_locked(stopped)


def test_who_asks_for_its_results_is_told_to_wait(stopped):
    for ask in (fasticcl.evaluate, fasticcl.report, lambda run: fasticcl.predict(run, [run / "config.toml"])):
        with lock_run(stopped), pytest.raises(UserError) as refused:
            ask(stopped)
        assert str(refused.value).endswith(". Wait until the process that trains it ends.")
        with pytest.raises(UserError, match=r"\. Continue it with: fasticcl train demo .* --resume$"):
            ask(stopped)


def test_lines_that_came_twice_do_not_make_a_run_unfinished(tiny_shards, tmp_path):
    run = start_tiny(tiny_shards, tmp_path).run
    assert read_history(run).finished
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    last = next(line for line in reversed(lines) if "val/top1" in json.loads(line))
    with open(run / "metrics.jsonl", "a") as file:
        file.write(last)
    assert read_history(run).finished
