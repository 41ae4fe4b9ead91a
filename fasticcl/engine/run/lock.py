"""Exclusive lock on a run folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fasticcl.errors import UserError


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Lock a run folder. The kernel releases the lock when the process ends for any reason.

    File systems without ``flock`` give no protection.

    Raises:
        UserError: another process holds the lock.
    """
    path = folder / "config.toml"
    with open(path, "rb+" if os.access(path, os.W_OK) else "rb") as file:  # NFS locks only writable files
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Another process is training in {folder}. Wait until it ends, or choose another --name."
            ) from None
        except OSError:
            pass
        yield


def is_locked(folder: Path) -> bool:
    """Return True if a process is training in a run folder."""
    with open(folder / "config.toml", "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False
