"""Source datasets: lists of images and labels, before any image is read."""

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

_CHECKED_FILES = 20  # at least one of the first files must exist


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source dataset."""

    content: Path | bytes
    """The path of the image file, or the encoded image."""
    label: int
    name: str
    """Path of the image below the source folder, which identifies it for the user."""

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
        """Return a text that identifies the image, and the modification time of its file in nanoseconds.

        Files are not read, and a copy of a file has the same text. The time is 0 for bytes and missing files.
        """
        if isinstance(self.content, bytes):
            return f"{self.name} {self.label} {zlib.crc32(self.content)}", 0
        try:
            status = self.content.stat()
        except (OSError, ValueError):  # ValueError: the name is not valid for a file
            return f"{self.name} {self.label} missing", 0
        return f"{self.name} {self.label} {status.st_size}", status.st_mtime_ns


class ItemList(Sequence[Item]):
    """The images of a split. Each takes about 25 bytes plus its name, compared with 500 as an object.

    Args:
        names: name of each image.
        labels: label of each image.
        content: function that takes the position of an image in ``names`` and its name, and returns the path
            or the bytes of the image.
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

    def take(self, positions: NDArray[np.integer] | slice) -> Self:
        """Return a list of the images at these positions, in the same order."""
        taken = copy.copy(self)
        taken._rows, taken.labels = self._rows[positions], self.labels[positions]
        return taken

    def relabelled(self, labels: NDArray[np.int64]) -> Self:
        """Return a list of the same images with other labels."""
        relabelled = copy.copy(self)
        relabelled.labels = labels
        return relabelled

    def name(self, position: int) -> str:
        """Return the name of the image at a position."""
        row = self._rows[position]
        return self._blob[self._ends[row] : self._ends[row + 1]].decode("utf-8", "surrogateescape")

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, position: int) -> Item: ...
    @overload
    def __getitem__(self, position: slice) -> Self: ...
    def __getitem__(self, position: int | slice) -> Item | Self:
        if isinstance(position, slice):
            return self.take(position)
        name = self.name(position)
        return Item(self._content(int(self._rows[position]), name), int(self.labels[position]), name)


def list_files(root: Path, names: Iterable[str], labels: Iterable[int]) -> ItemList:
    """Return a list of the image files ``root/name``.

    Raises:
        UserError: a name points outside ``root``, which never happens in an official list.
    """
    return ItemList(map(_checked_name, names), labels, lambda _, name: root / name)


def _checked_name(name: str) -> str:
    if name.startswith("/") or ".." in name.split("/"):
        raise UserError(f"The list contains {name!r}, which is outside the dataset. Download the list again.")
    return name


def check_some_file_exists(items: ItemList, root: Path) -> None:
    """Check that the list belongs to this folder. A single missing file is reported when it is read.

    Raises:
        UserError: none of the first images exists.
    """
    names = [items.name(position) for position in range(min(len(items), _CHECKED_FILES))]
    if names and not any((root / name).is_file() for name in names):
        raise UserError(
            f"{root} has neither {names[0]} nor any of the next images of the list. "
            "Specify the folder that contains them."
        )


@dataclass(frozen=True)
class Source:
    """A dataset as its layout lists it: classes, images and settings, before any image is read."""

    dataset: str
    classes: list[str]
    """Class names. A label is an index into this list."""
    splits: Mapping[str, Sequence[Item]]
    """The images of train and of val, test or both, in the order in which they are stored."""
    archive: Path | None = None
    """The tar that contains the images as members with the same names, or None for files and bytes."""
    settings: Mapping[str, int | float | str] = field(default_factory=dict)
    """Values of the options of the layout, for the manifest."""
    subset: str | None = None
    """Name of the choice of training images, for the manifest. None: all images or a published subset."""
    notes: Sequence[str] = ()
    """Remarks for the user, for example that a list is not the published one."""
