"""Exit codes, handling of closed standard output, and output files."""

import io
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO

import typer
from rich.console import Console

from fasticcl.errors import UserError
from fasticcl.files import replacing
from fasticcl.system import rank_environment

_DELAY_OF_OTHER_RANKS = 10.0  # seconds
_TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}  # file names may contain arbitrary bytes


def leave(code: int, message: str) -> NoReturn:
    """Print a message on standard error and exit with a code."""
    if rank := rank_environment.rank():
        # If all ranks fail for the same reason, torchrun ends the others when rank 0 exits, so that the
        # message appears only once.
        time.sleep(_DELAY_OF_OTHER_RANKS)
        message = f"rank {rank}: {message}"
    typer.echo(message, err=True)
    sys.exit(code)


@contextmanager
def exit_on_closed_stdout() -> Iterator[None]:
    """Let SIGPIPE end the process silently, as in other Unix tools. Python would raise an error instead."""
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGPIPE, before)


def persistent_console(**options: Any) -> Console:
    """Return a console that goes quiet if standard output is closed, so that the command continues.

    SIGPIPE is ignored until the end of `exit_on_closed_stdout`.

    Args:
        options: arguments of `rich.console.Console`.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    return _PersistentConsole(**options)


class _PersistentConsole(Console):
    # The results of such a command are in files, so its output can be lost. Ending a run because a pager or a
    # `tee` has ended would leave the GPUs idle.
    def on_broken_pipe(self) -> None:
        self.quiet = True
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, self.file.fileno())  # otherwise the flush at exit would fail
        try:
            typer.echo("warning  standard output is closed, but the command continues", err=True)
        except BrokenPipeError:
            os.dup2(devnull, 2)  # with 2>&1, later messages must not end the command either


@contextmanager
def open_output(path: Path | None) -> Iterator[TextIO]:
    """Open a file for writing, or standard output if ``path`` is None.

    The file is written atomically, so on an error it stays unchanged. Standard output is flushed after every
    line.

    Raises:
        UserError: the file cannot be written.
    """
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True, **_TEXT)
        yield sys.stdout
        return
    try:
        if path.exists() and not path.is_file():  # a pipe or a device, which must not be replaced
            with open(path, "w", newline="", **_TEXT) as file:
                yield file
            return
        with replacing(path) as raw:
            file = io.TextIOWrapper(raw, newline="", **_TEXT)
            try:
                yield file
            finally:
                file.detach()
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}. Choose another --output.") from None
