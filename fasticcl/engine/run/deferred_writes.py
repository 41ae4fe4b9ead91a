"""Deferred writes: if the disk is full or read-only, run files are retried while training continues."""

from collections.abc import Callable
from pathlib import Path

Write = Callable[[Path], None]
"""Writes a file completely or not at all, and raises OSError if it cannot."""


class DeferredWrites:
    """Writes the files of a folder and retries failed writes later. Each failure is reported once.

    Only one thread may use it at a time.

    Args:
        folder: folder of the files.
        enabled: if False, nothing is written and every write counts as successful, as on all ranks but one.
        warn: called with a message when a file cannot be written.
    """

    def __init__(
        self, folder: Path, enabled: bool = True, warn: Callable[[str], None] = lambda _: None
    ) -> None:
        self.folder, self.enabled, self.warn = folder, enabled, warn
        self.pending: dict[str, Write] = {}
        """Queued writes by file name."""
        self.failing: set[str] = set()
        """Names of the files whose last write failed."""

    def write(self, name: str, write: Write) -> None:
        """Write a file now, or queue it for `flush` if that fails."""
        self.pending[name] = write
        if self.try_write(name, write):
            del self.pending[name]

    def flush(self) -> bool:
        """Retry the queued writes and return True if none is left."""
        for name, write in [*self.pending.items()]:
            self.write(name, write)
        return not self.pending

    def try_write(self, name: str, write: Write) -> bool:
        """Write a file now without queueing it, and return True on success."""
        if not self.enabled:
            return True
        try:
            write(self.folder / name)
        except OSError as error:
            if name not in self.failing:
                self.warn(
                    f"warning  cannot write {self.folder / name}: {error.strerror or error}. "
                    "Free some space. Training continues and retries"
                )
            self.failing.add(name)
            return False
        self.failing.discard(name)
        return True
