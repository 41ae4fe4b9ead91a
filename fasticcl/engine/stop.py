"""Ctrl-C and SIGTERM: finish the step, save, leave."""

import signal
from types import FrameType, TracebackType


class Stopped(Exception):
    """The run was asked to stop and saved its state.

    Attributes:
        signum: the signal; the exit code is 128 more.
        command: what continues the run.
    """

    def __init__(self, signum: int, command: str) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum, self.command = signum, command


class StopRequest:
    """While entered, notes the first SIGINT or SIGTERM; the second acts as if nobody had listened."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for signum in (signal.SIGINT, signal.SIGTERM):
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
            signal.signal(signum, handler)  # type: ignore[arg-type]
