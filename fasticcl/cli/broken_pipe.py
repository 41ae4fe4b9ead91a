"""Standard output whose reader goes away, as in ``fasticcl ... | head -3``."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console


@contextmanager
def ending_with_its_reader() -> Iterator[None]:
    """Have the process end by SIGPIPE, quietly, as other Unix tools do; Python would raise an error."""
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGPIPE, before)


def lasting_console(**options: Any) -> Console:
    """Return the console of a verb that works on without a reader, until `ending_with_its_reader` is left.

    Args:
        options: those of `rich.console.Console`.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    return _LastingConsole(**options)


class _LastingConsole(Console):
    # What such a verb makes is in files, and its lines are a view of them. To stop, even resumably, would
    # leave the GPUs idle all night because a pager or a `tee` ended; who wants to stop has Ctrl-C.
    def on_broken_pipe(self) -> None:
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())  # else the flush at the end would fail
        try:
            typer.echo("warning  nobody reads the output any more; the work goes on without it", err=True)
        except BrokenPipeError:
            os.dup2(nowhere, 2)  # 2>&1: what is said later must not end the work either
