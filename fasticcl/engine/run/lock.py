"""A run folder in the hands of the one process that trains in it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fasticcl.errors import UserError


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep others from training in a run folder; the system lets go of it when the process ends, however.

    On a file system without locks nobody is kept from it.

    Raises:
        UserError: another process holds it.
    """
    path = folder / "config.toml"
    with open(path, "rb+" if os.access(path, os.W_OK) else "rb") as file:  # NFS locks what may be written
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Another process is training in {folder}; wait for its end, or choose another --name."
            ) from None
        except OSError:
            pass
        yield


def is_held(folder: Path) -> bool:
    """Return whether a process is training in a run folder at this moment."""
    with open(folder / "config.toml", "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False
