"""Files that are whole or absent, whatever happens while they are written."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

ASIDE = ".part"
"""Suffix of files that are being written."""


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left of files that they were writing into a folder."""
    for left in folder.glob(f"*{ASIDE}"):
        left.unlink(missing_ok=True)


class Replacement:
    """A file being written beside ``path``, to take its place when it is whole.

    A reader of ``path`` sees the old content or the new, never a part. What a killed process left of
    earlier attempts is removed first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        for left in path.parent.glob(f"{path.name}.*{ASIDE}"):
            left.unlink(missing_ok=True)
        # Two processes that write the same file must not write into one another's.
        self.aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}{ASIDE}")
        self.file: BinaryIO = open(self.aside, "w+b")  # noqa: SIM115  closed in commit and abandon

    def commit(self, previous: Path | None = None) -> None:
        """Flush the file to the disk and rename it; what it replaces may be kept as ``previous``."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        if previous and self.path.exists():
            os.replace(self.path, previous)
        os.replace(self.aside, self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)  # the renaming itself must reach the disk too
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def abandon(self) -> None:
        """Leave ``path`` as it was; after `commit` there is nothing left to abandon."""
        try:
            self.file.close()  # flushes, which a full disk refuses
        except OSError:
            pass
        finally:
            self.aside.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[BinaryIO]:
    """Open a file that replaces ``path`` when the block ends well, and leaves it alone when it fails.

    What it replaces may be kept as ``previous``.
    """
    replacement = Replacement(path)
    try:
        yield replacement.file
        replacement.commit(previous)
    finally:
        replacement.abandon()


def write_file(path: Path, content: bytes) -> None:
    """Put ``content`` in place as `replacing` does."""
    with replacing(path) as file:
        file.write(content)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
