"""The pictures that a person names: files, folders, shards and tars, listed when they are needed."""

import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from fasticcl.convert.tar_stream import open_tar
from fasticcl.errors import UserError
from fasticcl.shards.images import IMAGE_SUFFIXES, UnreadableImage
from fasticcl.shards.manifest import MANIFEST, Manifest
from fasticcl.shards.reader import INDEX, DamagedImages, Shards

_TARS = (".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class Picture:
    """An encoded image somewhere."""

    name: str
    """Its path, in shards and tars followed by what it is called there."""
    read: Callable[[], bytes]
    """Returns its bytes; raises OSError or UnreadableImage."""


def find_pictures(paths: Iterable[Path]) -> Iterator[Picture]:
    """Return pictures in the order of the paths, those in a folder sorted by name.

    A file is one whatever it is called; in folders, however deep, and in tars the usual suffixes count and
    hidden ones do not. Folders that are links are left out.

    Raises:
        UserError: no paths, one that does not exist, a folder without pictures, or damaged shards; before
            the first picture is listed.
    """
    listings = [_listed(path) for path in paths]
    if not listings:
        raise UserError("There are no pictures; name files, folders, shards or tars.")
    return chain.from_iterable(listings)


def _listed(path: Path) -> Iterator[Picture]:
    if not os.path.exists(path):
        raise UserError(f"There is no {path}; give files, folders, tars or shards that exist.")
    if not path.is_dir():
        return _in_tar(path) if path.name.endswith(_TARS) else iter([_file(path)])
    if (manifest := Manifest.read(path)) is not None:
        return chain.from_iterable([_in_split(path, split) for split in manifest.splits])
    if (path / INDEX).exists() and (path.parent / MANIFEST).exists():
        return _in_split(path.parent, path.name)
    found = _in_folder(path)
    first = next(found, None)
    if first is None:
        raise UserError(f"There are no pictures in {path}; give another folder.")
    return chain([first], found)


def _file(path: Path) -> Picture:
    return Picture(str(path), partial(_bytes, path))


def _bytes(path: Path) -> bytes:
    with open(path, "rb", buffering=0) as file:  # a buffer would only be filled to be copied
        return file.read()


def _in_folder(folder: Path) -> Iterator[Picture]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        yield Picture(str(folder), partial(_refuse, error))
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _in_folder(Path(entry.path))
        elif _is_picture(entry.name) and (entry.is_file() or entry.is_symlink()):
            yield _file(Path(entry.path))


def _in_split(folder: Path, split: str) -> Iterator[Picture]:
    shards = Shards(folder, split)
    return (
        Picture(str(folder / shards.name(row)), partial(_content, shards, row)) for row in range(len(shards))
    )


def _content(shards: Shards, row: int) -> bytes:
    try:
        return shards.read(np.array([row]))[0].tobytes()
    except DamagedImages as error:
        raise UnreadableImage(error.reason) from None


def _in_tar(path: Path) -> Iterator[Picture]:
    """Yield the pictures of a tar, which can be read but once, with their bytes."""
    try:
        with open_tar(path) as tar:
            for member in tar:
                tar.members.clear()  # pyrefly: ignore[missing-attribute]  # else it remembers them all
                file = tar.extractfile(member) if member.isfile() and _is_picture(member.name) else None
                if file is not None:
                    content = file.read()
                    yield Picture(f"{path}/{member.name}", lambda content=content: content)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        yield Picture(str(path), partial(_refuse, error))


def _is_picture(path: str) -> bool:
    name = path.rpartition("/")[2]
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _refuse(error: Exception) -> bytes:
    raise UnreadableImage(getattr(error, "strerror", None) or str(error))
