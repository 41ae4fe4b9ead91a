"""Original dataset layouts, one file each, all read as a `Source`."""

import copy
import errno
import zlib
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, overload

import numpy as np
from numpy.typing import NDArray

from fasticcl.errors import UserError

_TRIED = 20  # images that are looked for before a folder is called wrong


@dataclass(frozen=True, slots=True)
class Item:
    """One image of an original dataset."""

    content: Path | bytes
    """The image file, or its bytes."""
    label: int
    name: str
    """What a person would call it: the path below the source folder."""

    def read(self) -> bytes:
        """Return the encoded image.

        Raises:
            OSError: the file cannot be read.
        """
        try:
            return self.content if isinstance(self.content, bytes) else self.content.read_bytes()
        except ValueError as error:
            raise OSError(errno.EINVAL, str(error)) from None

    def fingerprint(self) -> tuple[str, int]:
        """Return what changes when the image does, without reading it, and when its file was last changed.

        The first holds for a copy of the file too. The second is 0 for bytes and for a missing file.
        """
        if isinstance(self.content, bytes):
            return f"{self.name} {self.label} {zlib.crc32(self.content)}", 0
        try:
            status = self.content.stat()
        except (OSError, ValueError):  # ValueError: no file can have this name
            return f"{self.name} {self.label} missing", 0
        return f"{self.name} {self.label} {status.st_size}", status.st_mtime_ns


class Listing(Sequence[Item]):
    """The images of a split, about 25 bytes each beside their names: a list of objects would take 500.

    Args:
        names: name of each image.
        labels: label of each image.
        content: called with the place of an image in ``names`` and its name; returns its file or bytes.
    """

    def __init__(
        self, names: Iterable[str], labels: Iterable[int], content: Callable[[int, str], Path | bytes]
    ) -> None:
        blob, ends = bytearray(), array("Q", [0])
        for name in names:
            blob += name.encode("utf-8", "surrogateescape")
            ends.append(len(blob))
        self._blob, self._ends = bytes(blob), np.array(ends, dtype=np.uint64)
        self._rows = np.arange(len(ends) - 1)
        self._content = content
        self.labels: NDArray[np.int64] = np.fromiter(labels, dtype=np.int64)
        """[N] label of each image."""

    def take(self, places: NDArray[np.integer] | slice) -> Self:
        """Return a listing of some of the images, in the order of ``places``."""
        part = copy.copy(self)
        part._rows, part.labels = self._rows[places], self.labels[places]
        return part

    def relabelled(self, labels: NDArray[np.int64]) -> Self:
        """Return a listing of the same images with other labels."""
        part = copy.copy(self)
        part.labels = labels
        return part

    def name(self, place: int) -> str:
        """Return the name of the image at a place."""
        row = self._rows[place]
        return self._blob[self._ends[row] : self._ends[row + 1]].decode("utf-8", "surrogateescape")

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> Self: ...
    def __getitem__(self, place: int | slice) -> Item | Self:
        if isinstance(place, slice):
            return self.take(place)
        name = self.name(place)
        return Item(self._content(int(self._rows[place]), name), int(self.labels[place]), name)


def files(root: Path, names: Iterable[str], labels: Iterable[int]) -> Listing:
    """Return a listing of the image files ``root/name``.

    Raises:
        UserError: a name that leads out of ``root``, which no official list has.
    """
    return Listing(map(_inside, names), labels, lambda _, name: root / name)


def _inside(name: str) -> str:
    if name.startswith("/") or ".." in name.split("/"):
        raise UserError(f"The list names {name!r}, which is outside the dataset; get the list again.")
    return name


def some_file_exists(listing: Listing, root: Path) -> None:
    """Check that a listing is not about another folder; single missing files are found when they are read.

    Raises:
        UserError: none of the first images is there.
    """
    names = [listing.name(place) for place in range(min(len(listing), _TRIED))]
    if names and not any((root / name).is_file() for name in names):
        raise UserError(f"There is no {names[0]} in {root}, nor the next images; is it the right folder?")


@dataclass(frozen=True)
class Source:
    """A dataset as its layout describes it, before any image is read."""

    dataset: str
    classes: list[str]
    """Class names; a label is a place in this list."""
    splits: Mapping[str, Sequence[Item]]
    """train and at least one of val and test, in the order in which they are stored."""
    archive: Path | None = None
    """The tar whose members the images are, by name; None: they are files or bytes."""
    settings: Mapping[str, int | float | str] = field(default_factory=dict)
    """What was chosen among the layout's options; the manifest records it."""
    notes: Sequence[str] = ()
    """What a person should know of how the layout was read."""
