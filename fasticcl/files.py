"""Files that are whole or absent, whatever happens while they are written."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

ASIDE = ".part"
"""Suffix of files that are being written."""


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

    def commit(self) -> None:
        """Flush the file to the disk and rename it."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
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
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces ``path`` when the block ends well, and leaves it alone when it fails."""
    replacement = Replacement(path)
    try:
        yield replacement.file
        replacement.commit()
    finally:
        replacement.abandon()


def write_file(path: Path, content: bytes) -> None:
    """Put ``content`` in place as `replacing` does."""
    with replacing(path) as file:
        file.write(content)
