"""Runs of a plan are trained in subprocesses, here by a stand-in for the command line."""

import json
import os
import signal
import sys
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest

from fasticcl.engine.run.folder import RunFolder
from fasticcl.engine.run.lock import lock_run
from fasticcl.errors import Stopped, UserError
from fasticcl.reproduce import runner
from fasticcl.reproduce.existing_runs import ExistingRuns
from fasticcl.reproduce.job import Job
from fasticcl.reproduce.plan import Plan
from fasticcl.reproduce.runner import run_plan
from fasticcl.reproduce.training import run_process, slots
from fasticcl.reproduce.training.run_process import RunProcess
from fasticcl.resolve import configure
from tests.support import stand_in_run
from tests.support.small_runs import ConsoleOutput


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(run_process, "PROGRAM", (sys.executable, stand_in_run.__file__))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def plan_of(project, *names, after=()):
    """Return a plan with a job for each name. ``after``: (name, needed name)."""
    jobs = []
    for seed, name in enumerate(names):
        config = configure("demo", project=project, name=name, seed=seed, device="cpu", epochs=2)
        folders = tuple(project / "demo" / needed for job, needed in after if job == name)
        jobs.append(Job(config, cells=(), run=ExistingRuns(project).find(config), after=folders))
    return Plan(cells=(), jobs=jobs)


def run(plan, jobs=1):
    """Return the failures by name and the printed lines."""
    output = ConsoleOutput()
    failures = {each.job.folder.name: each for each in run_plan(plan, jobs, output.console)}
    return failures, output.file.getvalue().splitlines()


def started(project, name):
    return json.loads((project / "demo" / name / "started.json").read_text())


def test_runs_are_trained_in_order_and_kept_by_the_next_call(tmp_path):
    failures, lines = run(plan_of(tmp_path, "a", "b"))
    assert failures == {}
    assert [line.split()[:2] for line in lines] == [
        ["started", "demo/a"],
        ["done", "demo/a"],
        ["started", "demo/b"],
        ["done", "demo/b"],
    ]
    assert "87.5 %" in lines[1]
    assert "(1/2 runs)" in lines[1]
    assert "(2/2 runs)" in lines[3]
    assert (tmp_path / "logs/demo/a.log").read_text().startswith("$ fasticcl train -c ")
    assert started(tmp_path, "a")["threads"] is None
    assert started(tmp_path, "a")["session"] != os.getsid(0)  # Ctrl-C reaches only this process
    times = [(tmp_path / "demo" / name / "config.toml").stat().st_mtime_ns for name in "ab"]
    again = run(plan_of(tmp_path, "a", "b"))
    assert again == ({}, ["kept     2 of 2 runs, already finished"])
    assert times == [(tmp_path / "demo" / name / "config.toml").stat().st_mtime_ns for name in "ab"]


def test_failed_runs_are_named_and_those_that_need_them_passed_over(tmp_path):
    names = ["diverges", "crashes", "killed", "second", "third", "a"]
    needs = [("second", "diverges"), ("third", "second")]
    failures, lines = run(plan_of(tmp_path, *names, after=needs), jobs=2)
    assert {name: failure.reason for name, failure in failures.items()} == {
        "diverges": "The loss is not finite.",
        "crashes": "RuntimeError: broken",
        "killed": "killed by SIGKILL, perhaps because memory ran out",
        "second": "needs demo/diverges",
        "third": "needs demo/second",
    }
    assert failures["crashes"].log == tmp_path / "logs/demo/crashes.log"
    assert failures["second"].log is None
    assert (tmp_path / "demo/a/model.safetensors").exists()
    assert f"failed   demo/crashes: {failures['crashes'].reason}" in lines
    assert failures["crashes"].command.startswith("fasticcl train -c ")


def test_diverged_run_is_resumed_once_by_the_next_call(tmp_path):
    log = tmp_path / "logs/demo/diverges.log"
    assert [*run(plan_of(tmp_path, "diverges"))[0]] == ["diverges"]
    assert log.read_text().count("$ fasticcl") == 1
    failures, lines = run(plan_of(tmp_path, "diverges"))
    assert failures == {}
    assert lines[0] == "resumed  demo/diverges"
    assert log.read_text().count("$ fasticcl") == 2
    assert started(tmp_path, "diverges")["words"] == [
        *["train", "demo", "--project", str(tmp_path), "--name", "diverges", "--resume"]
    ]


def test_run_that_needs_another_one_waits_for_it_although_a_slot_is_free(tmp_path):
    _, lines = run(plan_of(tmp_path, "a", "b", after=[("b", "a")]), jobs=2)
    assert [line.split()[0] for line in lines] == ["started", "done", "started", "done"]


def test_error_is_that_of_the_last_start(tmp_path):
    reasons = [run(plan_of(tmp_path, "worsens"))[0]["worsens"].reason for _ in range(2)]
    assert reasons == ["The loss is not finite.", "Killed"]


def test_two_jobs_run_side_by_side_and_divide_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(slots, "usable_cores", lambda: 6)
    assert run(plan_of(tmp_path, "meets-1", "meets-2"), jobs=2)[0] == {}
    first = started(tmp_path, "meets-1")
    assert first["threads"] == "3"
    assert first["words"][-2:] == ["--workers", "3"]


@contextmanager
def when(condition, action):
    """Call ``action`` in a thread as soon as a condition holds."""

    def watch():
        while not condition():
            time.sleep(0.01)
        action()

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    thread.join()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signal_lets_all_runs_save_and_the_next_call_continues(tmp_path, signum):
    folders = [tmp_path / "demo" / name for name in ("slow-1", "slow-2")]
    plan = plan_of(tmp_path, "slow-1", "slow-2", "a")
    with (
        when(
            lambda: all((folder / "ready").exists() for folder in folders),
            lambda: os.kill(os.getpid(), signum),
        ),
        pytest.raises(Stopped) as stopped,
    ):
        run_plan(plan, 2, command="fasticcl reproduce table1")
    assert (stopped.value.signum, stopped.value.command) == (signum, "fasticcl reproduce table1")
    assert all((folder / "saved").exists() for folder in folders)
    assert not (tmp_path / "demo/a").exists()
    failures, lines = run(plan_of(tmp_path, "slow-1", "slow-2", "a"))
    assert failures == {}
    assert lines[0] == "resumed  demo/slow-1"


def test_run_that_has_got_the_signal_already_is_not_signalled_again(tmp_path, monkeypatch):
    """As if a batch system had signalled all processes. A second signal would end it before it has saved."""
    folder, stop = tmp_path / "demo/saves-slowly", RunProcess.stop

    def signal_before(process):
        os.kill(process._process.pid, signal.SIGTERM)
        while not (folder / "saving").exists():
            time.sleep(0.01)
        stop(process)

    monkeypatch.setattr(RunProcess, "stop", signal_before)
    ready = folder / "ready"

    def terminate():
        time.sleep(0.3)  # until the handler is seen
        os.kill(os.getpid(), signal.SIGTERM)

    with when(ready.exists, terminate), pytest.raises(Stopped):
        run_plan(plan_of(tmp_path, "saves-slowly"), 1)
    assert (folder / "saved").exists()


def test_second_signal_kills_the_runs(tmp_path):
    ready = tmp_path / "demo/stubborn/ready"

    def interrupt_twice():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)  # the first is recorded within one poll
        os.kill(os.getpid(), signal.SIGINT)

    with when(ready.exists, interrupt_twice), pytest.raises(KeyboardInterrupt):
        run_plan(plan_of(tmp_path, "stubborn"), 1)
    with pytest.raises(ProcessLookupError):
        os.kill(started(tmp_path, "stubborn")["pid"], 0)


def test_run_that_another_process_trains_is_waited_for(tmp_path):
    run(plan_of(tmp_path, "diverges"))
    plan, output = plan_of(tmp_path, "diverges", "a"), ConsoleOutput()
    with ExitStack() as lock:
        lock.enter_context(lock_run(tmp_path / "demo/diverges"))
        with when(lambda: "done     demo/a" in output.file.getvalue(), lock.close):
            assert run_plan(plan, 1, output.console) == []
    lines = output.file.getvalue().splitlines()
    waiting = "waiting  demo/diverges, which another process trains"
    assert lines[0] == waiting
    assert lines.count(waiting) == 1
    assert lines[-2] == "resumed  demo/diverges"


def test_run_that_another_process_starts_at_the_same_time_is_waited_for(tmp_path, monkeypatch):
    output, command_words = ConsoleOutput(), runner.command_words
    with ExitStack() as lock:

        def create_before_start(job, *arguments):
            words = command_words(job, *arguments)
            if not job.folder.exists():
                lock.enter_context(lock_run(RunFolder.create(job.config).path))
            return words

        monkeypatch.setattr(runner, "command_words", create_before_start)
        with when(lambda: "waiting" in output.file.getvalue(), lock.close):
            assert run_plan(plan_of(tmp_path, "a"), 1, output.console) == []
    lines = output.file.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["started", "waiting", "resumed", "done"]


@pytest.mark.parametrize("file", ["logs/demo/a.log", "logs/demo/a.toml"])
def test_runs_are_stopped_if_the_log_of_another_one_cannot_be_written(tmp_path, monkeypatch, file):
    (tmp_path / file).mkdir(parents=True)
    stop, stopped = RunProcess.stop, []

    def record(process):
        stopped.append(process.job.folder.name)
        stop(process)

    monkeypatch.setattr(RunProcess, "stop", record)
    with pytest.raises(UserError, match=r"Cannot write into .*logs/demo: Is a directory\. Choose another"):
        run(plan_of(tmp_path, "slow-1", "a"), jobs=2)
    assert stopped == ["slow-1"]


def test_folder_of_a_run_with_other_settings_is_not_touched(tmp_path):
    run(plan_of(tmp_path, "a"))
    config = configure("demo", project=tmp_path, name="a", device="cpu", epochs=3)
    failures, _ = run(Plan(cells=(), jobs=[Job(config, cells=())]))
    assert "is a run with other settings" in failures["a"].reason
