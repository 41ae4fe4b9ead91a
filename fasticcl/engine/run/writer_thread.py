"""The thread that writes the files of a run while training continues."""

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from types import TracebackType

_SIGNAL_SECONDS = 0.1  # after which a wait looks for signals


class Cancelled(Exception):
    """A job was abandoned because the process is about to exit."""


class Job:
    """A submitted function.

    Args:
        function: called without arguments.
    """

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function
        self.finished = threading.Event()
        """Set after the function has returned, failed or been skipped."""


class WriterThread:
    """Runs functions one after another in a thread, in the order of their submission.

    The thread lives in the ``with`` block. Before and after it, a function runs at once in the calling
    thread. Leaving the block waits for all functions, unless the process is about to exit (Ctrl-C): then the
    current function is abandoned at its next `check`, and the others are skipped.

    Warnings and exceptions reach the submitting thread at its next call or at the end of the block. After an
    exception, the remaining functions are skipped.

    Args:
        warn: called in the submitting thread with every text that a function passes to `warn`.
    """

    def __init__(self, warn: Callable[[str], None] = lambda _: None) -> None:
        self._warn = warn
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._warnings: deque[str] = deque()
        self._error: BaseException | None = None
        self._cancelled = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "WriterThread":
        # A daemon thread cannot keep a process alive that fails to leave the block.
        self._thread = threading.Thread(target=self._run, name="fasticcl-writer", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._exists() and (kind is None or issubclass(kind, Exception)):
                self._jobs.put(None)
                _wait(self._ended)
        finally:  # after Ctrl-C, also during the wait
            self.stop()
        self._deliver_warnings()
        if self._error is not None and self._error is not error:
            raise self._error

    def stop(self) -> None:
        """Abandon the current function, skip the others and wait for the end of the thread, if it still runs.

        Leaving the block does this after Ctrl-C, unless the signal arrives before its first statement.
        """
        if self._exists() and not self._ended.is_set():
            self._cancelled.set()
            self._jobs.put(None)
            _wait(self._ended)
        if self._ended.is_set():
            self._thread = None

    def _exists(self) -> bool:
        """Return True in the block, but not in a process that was forked there."""
        return self._thread is not None and self._thread.is_alive()

    def submit(self, function: Callable[[], object]) -> Job:
        """Run a function after all functions that were submitted before."""
        job = Job(function)
        if self._thread is None:
            function()
            job.finished.set()
            return job
        self._report()
        self._jobs.put(job)
        return job

    def wait(self, job: Job) -> None:
        """Wait until a submitted function has returned."""
        self._report()  # in a forked process, the function never returns
        _wait(job.finished)
        self._report()

    def warn(self, text: str) -> None:
        """Pass a warning from any thread to the submitting thread."""
        self._warnings.append(text)
        if threading.current_thread() is not self._thread:
            self._deliver_warnings()

    def check(self) -> None:
        """Raise Cancelled if the process is about to exit. Long functions call this repeatedly."""
        if self._cancelled.is_set():
            raise Cancelled

    def _run(self) -> None:
        while job := self._jobs.get():
            finished = job.finished
            try:
                if self._error is None and not self._cancelled.is_set():
                    job.function()
            except Cancelled:
                pass
            except BaseException as error:  # raised again in the submitting thread
                self._error = error
            del job  # so the submitting thread frees the memory of the function
            finished.set()
        self._ended.set()

    def _report(self) -> None:
        """Deliver the warnings and raise the exception of a function in this thread."""
        if self._thread is not None and not self._exists():
            raise RuntimeError(
                "The run was opened before this process was forked. Only its parent can write."
            )
        self._deliver_warnings()
        if self._error is not None:
            raise self._error

    def _deliver_warnings(self) -> None:
        while self._warnings:
            self._warn(self._warnings.popleft())


def _wait(event: threading.Event) -> None:
    # A signal that arrives just before the wait begins would be handled only at its end.
    while not event.wait(_SIGNAL_SECONDS):
        pass
