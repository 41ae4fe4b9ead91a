"""Where a verb writes rows."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from fasticcl.errors import UserError
from fasticcl.files import replacing

_TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}  # names of files need not be text


@contextmanager
def opened(path: Path | None) -> Iterator[TextIO]:
    """Open standard output, which gets every line at once, or a file, which gets all lines or none.

    Raises:
        UserError: the file cannot be written.
    """
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True, **_TEXT)
        yield sys.stdout
        return
    try:
        if path.exists() and not path.is_file():  # a pipe or a device, which nothing may replace
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
        raise UserError(f"Cannot write {path}: {error.strerror}; choose another --output.") from None
