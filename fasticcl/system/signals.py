"""Record Ctrl-C, SIGTERM and SIGUSR1, so that training can finish its step and save before it exits.

SLURM can send SIGUSR1 before the time limit of a job.
"""

import signal
from types import FrameType, TracebackType
from typing import Any


class StopRequest:
    """Context manager that records the first signal in ``signum`` and then restores the signal handlers."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            try:
                self._previous[signum] = signal.signal(signum, self._record)
            except ValueError:  # only the main thread can set signal handlers
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _record(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002  signature of a signal handler
        self.signum = signum
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            signum, handler = self._previous.popitem()
            signal.signal(signum, handler)
