"""Atomic file writes: after a crash, a file has either its old or its new content."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

ASIDE = ".part"
"""Suffix of unfinished files."""


def remove_unfinished(folder: Path) -> None:
    """Remove the unfinished files of killed processes from a folder."""
    for unfinished in folder.glob(f"*{ASIDE}"):
        unfinished.unlink(missing_ok=True)


class Replacement:
    """A temporary file next to ``path`` that replaces it atomically.

    A reader of ``path`` sees either the old or the new content. Unfinished files of earlier, killed
    attempts to write ``path`` are removed first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        for unfinished in path.parent.glob(f"{path.name}.*{ASIDE}"):
            unfinished.unlink(missing_ok=True)
        # The random part avoids collisions between processes that write the same path.
        self.aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}{ASIDE}")
        self.file: BinaryIO = open(self.aside, "w+b")  # noqa: SIM115  closed by commit or abandon

    def commit(self, previous: Path | None = None) -> None:
        """Sync the file to disk and rename it to ``path``. Rename the old file to ``previous`` if given."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        if previous and self.path.exists():
            os.replace(self.path, previous)
        os.replace(self.aside, self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)  # sync the rename itself
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def abandon(self) -> None:
        """Delete the temporary file and leave ``path`` unchanged. After `commit` this does nothing."""
        try:
            self.file.close()  # close flushes the buffer, which fails on a full disk
        except OSError:
            pass
        finally:
            self.aside.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[BinaryIO]:
    """Open a file that replaces ``path`` atomically unless the block raises.

    The old file is renamed to ``previous`` if given.
    """
    replacement = Replacement(path)
    try:
        yield replacement.file
        replacement.commit(previous)
    finally:
        replacement.abandon()


def write_file(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with replacing(path) as file:
        file.write(content)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as a hexadecimal string."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
