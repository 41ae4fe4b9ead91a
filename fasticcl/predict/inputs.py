"""Input images of prediction: files, folders, shards and tar archives, listed lazily."""

import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

# Prediction accepts the same image suffixes and tar archives as conversion.
from fasticcl.convert.tar_stream import open_tar
from fasticcl.errors import UserError
from fasticcl.shards.images import IMAGE_SUFFIXES, UnreadableImage
from fasticcl.shards.manifest import MANIFEST, Manifest
from fasticcl.shards.reader import INDEX, DamagedImages, Shards

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class ImageInput:
    """An encoded image in a file, in a shard or in a tar archive."""

    name: str
    """Path of the image. For shards and tar archives, the path followed by the name inside."""
    read: Callable[[], bytes]
    """Return the encoded bytes, or raise OSError or UnreadableImage."""


def find_images(paths: Iterable[Path]) -> Iterator[ImageInput]:
    """Return the images of all paths, in the order of the paths. Images in a folder are sorted by name.

    A path that is a file counts as an image regardless of its suffix. Folders are searched recursively.
    In folders and tar archives only the usual image suffixes count. Hidden files and symbolic links to
    folders are ignored.

    Raises:
        UserError: before the first image is listed, if there are no paths, a path does not exist, a folder
            contains no images, or shards are damaged.
    """
    listings = [_images_of(path) for path in paths]
    if not listings:
        raise UserError("There are no images to predict. Specify files, folders, shards or tar archives.")
    return chain.from_iterable(listings)


def _images_of(path: Path) -> Iterator[ImageInput]:
    if not os.path.exists(path):
        raise UserError(f"{path} does not exist. Specify existing files, folders, shards or tar archives.")
    if not path.is_dir():
        return _in_tar(path) if path.name.endswith(_TAR_SUFFIXES) else iter([_in_file(path)])
    if (manifest := Manifest.read(path)) is not None:
        return chain.from_iterable([_in_split(path, split) for split in manifest.splits])
    if (path / INDEX).exists() and (path.parent / MANIFEST).exists():
        return _in_split(path.parent, path.name)
    images = _in_folder(path)
    first = next(images, None)
    if first is None:
        raise UserError(f"{path} contains no images. Specify a folder that contains some.")
    return chain([first], images)


def _in_file(path: Path) -> ImageInput:
    return ImageInput(str(path), partial(_read_file, path))


def _read_file(path: Path) -> bytes:
    with open(path, "rb", buffering=0) as file:  # a buffer would add a copy
        return file.read()


def _in_folder(folder: Path) -> Iterator[ImageInput]:
    try:
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        yield ImageInput(str(folder), partial(_raise_unreadable, error))
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _in_folder(Path(entry.path))
        elif _has_image_suffix(entry.name) and (entry.is_file() or entry.is_symlink()):
            yield _in_file(Path(entry.path))


def _in_split(folder: Path, split: str) -> Iterator[ImageInput]:
    shards = Shards(folder, split)
    return (
        ImageInput(str(folder / shards.name(row)), partial(_read_row, shards, row))
        for row in range(len(shards))
    )


def _read_row(shards: Shards, row: int) -> bytes:
    try:
        return shards.read(np.array([row]))[0].tobytes()
    except DamagedImages as error:
        raise UnreadableImage(error.reason) from None


def _in_tar(path: Path) -> Iterator[ImageInput]:
    """Yield the images of a tar archive together with their bytes, because the stream is read only once."""
    try:
        with open_tar(path) as tar:
            for member in tar:
                tar.members.clear()  # pyrefly: ignore[missing-attribute]  # keeps memory constant
                file = tar.extractfile(member) if member.isfile() and _has_image_suffix(member.name) else None
                if file is not None:
                    content = file.read()
                    yield ImageInput(f"{path}/{member.name}", lambda content=content: content)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        yield ImageInput(str(path), partial(_raise_unreadable, error))


def _has_image_suffix(path: str) -> bool:
    name = path.rpartition("/")[2]
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _raise_unreadable(error: Exception) -> bytes:
    raise UnreadableImage(getattr(error, "strerror", None) or str(error))
