"""Ctrl-C, SIGTERM and SIGUSR1, as SLURM sends it before time is up: finish the step, save, leave."""

import signal
from types import FrameType, TracebackType
from typing import Any


class StopRequest:
    """While entered, notes the first of the signals; the second acts as if nobody had listened."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            try:
                self._previous[signum] = signal.signal(signum, self._note)
            except ValueError:  # not the main thread: whoever runs the main thread listens
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002  the signature of a handler
        self.signum = signum
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            signum, handler = self._previous.popitem()
            signal.signal(signum, handler)
