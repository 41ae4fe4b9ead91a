"""Original dataset layouts, one file each, all read as a `Source`."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Item:
    """One image of an original dataset."""

    content: Path | bytes
    """The image file, or its bytes."""
    label: int
    name: str
    """What a person would call it: the path below the source folder."""

    def read(self) -> bytes:
        """Return the encoded image."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()

    def stamp(self) -> str:
        """Return what changes when the image does, without reading it."""
        if isinstance(self.content, bytes):
            return f"{self.name} {self.label} {zlib.crc32(self.content)}"
        status = self.content.stat()
        return f"{self.name} {self.label} {status.st_size} {status.st_mtime_ns}"


@dataclass(frozen=True)
class Source:
    """A dataset as its layout describes it, before any image is read."""

    dataset: str
    classes: list[str]
    """Class names; a label is a place in this list."""
    splits: Mapping[str, Sequence[Item]]
    """train and at least one of val and test, in the order in which they are stored."""
