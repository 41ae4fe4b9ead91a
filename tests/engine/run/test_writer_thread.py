"""Tests of the thread that runs write jobs."""

import os
import signal
import threading

import pytest

from fasticcl.engine.run.writer_thread import WriterThread
from tests.support.processes import Child

WAIT = 30  # seconds, for events that come at once unless the test fails


def fail():
    raise ValueError("broken")


def until_cancelled(thread, started=None):
    """Run until `WriterThread.check` raises an exception."""
    if started:
        started.set()
    while True:
        thread.check()


def test_functions_run_in_order_in_one_thread():
    seen = []
    with WriterThread() as thread:
        for number in range(100):
            last = thread.submit(lambda number=number: seen.append((number, threading.get_ident())))
        thread.wait(last)
        assert [number for number, _ in seen] == [*range(100)]
    assert len({ident for _, ident in seen} - {threading.get_ident()}) == 1


def test_functions_run_at_once_outside_of_the_block():
    thread, seen = WriterThread(), []
    with thread:
        thread.submit(lambda: seen.append(threading.get_ident()))
    thread.wait(thread.submit(lambda: seen.append(threading.get_ident())))
    assert seen[0] != seen[1] == threading.get_ident()


def test_leaving_the_block_waits_for_all_functions():
    allowed, seen = threading.Event(), []

    def use():
        with WriterThread() as thread:
            thread.submit(lambda: seen.append(allowed.wait(WAIT)))
            thread.submit(lambda: seen.append("last"))
            threading.Timer(0.05, allowed.set).start()
            raise KeyError  # the files of a run that fails are written too

    with pytest.raises(KeyError):
        use()
    assert seen == [True, "last"]


@pytest.mark.parametrize("call", ["submit", "wait", "leave"])
def test_exception_of_a_function_reaches_the_submitting_thread(call):
    skipped = []

    def use():
        with WriterThread() as thread:
            job = thread.submit(fail)
            thread.submit(lambda: skipped.append("after the failure"))
            if call == "wait":
                thread.wait(job)
            elif call == "submit":
                job.finished.wait(WAIT)
                thread.submit(lambda: skipped.append("after the failure"))

    with pytest.raises(ValueError, match="broken"):
        use()
    assert skipped == []


def test_exception_of_a_function_does_not_hide_another_one():
    def use():
        with WriterThread() as thread:
            thread.submit(fail)
            raise KeyError("of the training thread")

    with pytest.raises(ValueError, match="broken") as raised:
        use()
    assert isinstance(raised.value.__context__, KeyError)


def test_warnings_are_given_in_the_submitting_thread():
    given = []
    with WriterThread(lambda text: given.append((text, threading.get_ident()))) as thread:
        job = thread.submit(lambda: thread.warn("first"))
        job.finished.wait(WAIT)
        assert given == []
        thread.submit(lambda: thread.warn("second"))
        assert given == [("first", threading.get_ident())]
    assert given[1:] == [("second", threading.get_ident())]


def test_ctrl_c_abandons_the_current_function_and_skips_the_others():
    started, skipped = threading.Event(), []

    def use():
        with WriterThread() as thread:
            thread.submit(lambda: until_cancelled(thread, started))
            thread.submit(lambda: skipped.append("later"))
            started.wait(WAIT)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert skipped == []
    assert "fasticcl-writer" not in [each.name for each in threading.enumerate()]


@pytest.mark.parametrize("waiting", ["for a function", "at the end of the block"])
def test_ctrl_c_while_waiting_abandons_the_current_function(waiting):
    thread = WriterThread()

    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        until_cancelled(thread)

    def use():
        try:
            with thread:
                job = thread.submit(interrupt)
                if waiting == "for a function":
                    thread.wait(job)
        finally:
            thread.stop()  # the signal may arrive before the first statement of __exit__

    with pytest.raises(KeyboardInterrupt):
        use()
    assert "fasticcl-writer" not in [each.name for each in threading.enumerate()]


def leave_thread_behind():
    """End the process although a function still runs in the block."""
    started = threading.Event()

    def block():
        started.set()
        threading.Event().wait()

    thread = WriterThread().__enter__()
    thread.submit(block)
    started.wait(WAIT)


def test_thread_does_not_keep_a_process_alive(tmp_path):
    assert Child(tmp_path / "log", leave_thread_behind).exit_code() == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_process_can_neither_submit_nor_wait_and_leaves_the_block_at_once():
    allowed, written = threading.Event(), []
    with WriterThread() as thread:
        job = thread.submit(lambda: allowed.wait(WAIT))
        thread.submit(lambda: written.append(os.getpid()))
        if not (child := os.fork()):
            refused = False
            try:
                signal.alarm(WAIT)  # ends the process if it waits forever
                with pytest.raises(RuntimeError, match="Only its parent can write"):
                    thread.submit(lambda: None)
                with pytest.raises(RuntimeError, match="Only its parent can write"):
                    thread.wait(job)
                thread.__exit__(None, None, None)
                refused = True
            finally:
                os._exit(not refused)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        allowed.set()
    assert written == [os.getpid()]
