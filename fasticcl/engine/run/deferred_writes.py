"""A run's files where the disk takes none now: they wait, and training goes on."""

from collections.abc import Callable
from pathlib import Path

Write = Callable[[Path], None]
"""Writes a file whole or not at all, and raises OSError where that cannot be done."""


class LateFiles:
    """Writes the files of a folder, late where need be; each that fails is said once until it is written.

    Args:
        folder: where they lie.
        is_main: whether this process writes; other ranks take everything for written.
        warn: called with what a person should know of files that cannot be written.
    """

    def __init__(
        self, folder: Path, is_main: bool = True, warn: Callable[[str], None] = lambda _: None
    ) -> None:
        self.folder, self.is_main, self.warn = folder, is_main, warn
        self.waiting: dict[str, Write] = {}
        """What is still to be written, by the name of the file."""
        self.failing: set[str] = set()
        """Names of the files that could not be written when that was tried last."""

    def put(self, name: str, write: Write) -> None:
        """Write a file now or, where that cannot be done, when `catch_up` is called."""
        self.waiting[name] = write
        if self.wrote(name, write):
            del self.waiting[name]

    def catch_up(self) -> bool:
        """Write what is still to be written; return whether that is all."""
        for name, write in [*self.waiting.items()]:
            self.put(name, write)
        return not self.waiting

    def wrote(self, name: str, write: Write) -> bool:
        """Write a file now or not at all; return whether it is written."""
        if not self.is_main:
            return True
        try:
            write(self.folder / name)
        except OSError as error:
            if name not in self.failing:
                self.warn(
                    f"warning  cannot write {self.folder / name}: {error.strerror or error}; make room: "
                    "training goes on and tries again"
                )
            self.failing.add(name)
            return False
        self.failing.discard(name)
        return True
